//! `arvados mount`, and `arv-mount` through a link of that name: from the command line to the mounted file system.
//!
//! The order matters. What can be refused without a network is refused first, with the exit status that callers know
//! (2: usage, 1: everything else, arv-mount.md 1.5). Unmounting asks nobody for anything: it must work when the cluster is gone. Going
//! into the background comes before any thread exists. Then everything that can fail (settings, token, cluster,
//! what to show) is tried before the mount point is touched, so that a mount that exists is a mount that works.
//!
//! Three kinds of threads serve a mount: this one runs the FUSE session and never blocks; the network runtime does I/O and what
//! takes CPU; the actors have their arbiters. See `actors.rs` for why none of them can wait for another in a circle.

use super::signals;
use crate::fuse::mountpoint;
use crate::vfs::layout::{Layout, Place, is_group, is_uuid, portable_data_hash};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub mod arguments;
mod command;
mod crunchstat;
mod daemon;
mod ending;
mod filters;
pub mod guardian;
mod memory;
mod serve;
mod writing;

pub use arguments::Arguments;

/// Wrong usage, or something that this version cannot do.
const USAGE: u8 = 2;
/// Everything else that keeps us from mounting.
const FAILURE: u8 = 1;

/// Why there will be no mount, with the exit status.
struct Refusal {
    status: u8,
    message: String,
}

impl Refusal {
    fn usage(message: impl Into<String>) -> Refusal {
        Refusal { status: USAGE, message: message.into() }
    }

    fn failure(message: impl Into<String>) -> Refusal {
        Refusal { status: FAILURE, message: message.into() }
    }
}

/// Runs the command; returns when the mount has ended, or right after it began when it serves in the background.
pub fn run(arguments: Arguments) -> ExitCode {
    match try_run(arguments) {
        Ok(code) => code,
        Err(refusal) => {
            eprintln!("{}: error: {}", program(), refusal.message);
            ExitCode::from(refusal.status)
        }
    }
}

fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "arv-mount".into())
}

fn try_run(arguments: Arguments) -> Result<ExitCode, Refusal> {
    if arguments.version {
        signals::end_with_the_reader();
        println!("{} {}", program(), env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(directory) = arguments.mount_dir.clone() else { return Err(Refusal::usage("MOUNT_DIR is missing")) };
    if arguments.unmount || arguments.unmount_all {
        return unmount(&arguments, &directory);
    }
    let layout = layout(&arguments)?;
    let command = arguments.exec.clone().filter(|words| !words.is_empty());
    if !arguments.foreground && command.is_none() {
        return daemon::start().map_err(|error| Refusal::failure(format!("cannot start in the background: {error}")));
    }
    let filters = match &arguments.filters {
        Some(text) => filters::read(text).map_err(|problem| Refusal::usage(format!("--filters: {problem}")))?,
        None => Default::default(),
    };
    serve::run(&arguments, layout, filters, &mountpoint::resolve(&directory), command)
}

fn unmount(arguments: &Arguments, directory: &Path) -> Result<ExitCode, Refusal> {
    let path = mountpoint::resolve(directory);
    let limit = Duration::from_secs_f64(arguments.unmount_timeout);
    let subtype = arguments.subtype.as_deref();
    let result = if arguments.unmount_all {
        mountpoint::unmount_all(&path, subtype, limit)
    } else {
        mountpoint::unmount(&path, subtype, limit)
    };
    result.map(|_| ExitCode::SUCCESS).map_err(|error| Refusal::failure(error.to_string()))
}

/// What to show. Errors: names and combinations that arv-mount refuses, in its words.
fn layout(arguments: &Arguments) -> Result<Layout, Refusal> {
    if let Some(mode) = arguments.exclusive_mode()
        && arguments.has_custom_mounts()
    {
        return Err(Refusal::failure(format!("Cannot combine '{mode}' mode with custom --mount-* options.")));
    }
    let mut custom: Vec<(String, Place)> = Vec::new();
    let kinds = [
        (&arguments.mount_by_id, Place::ById),
        (&arguments.mount_by_pdh, Place::ByPdh),
        (&arguments.mount_by_tag, Place::ByTag),
        (&arguments.mount_home, Place::Home),
        (&arguments.mount_shared, Place::Shared),
    ];
    let names = kinds.iter().flat_map(|(names, place)| names.iter().map(move |name| (name, place)));
    for (name, place) in names {
        check_name(name)?;
        custom.retain(|(other, _)| other != name);
        custom.push((name.clone(), place.clone()));
    }
    for name in &arguments.mount_tmp {
        check_name(name)?;
        custom.retain(|(other, _)| other != name);
        custom.push((name.clone(), Place::Temporary(name.clone())));
    }
    Ok(match () {
        () if !custom.is_empty() => Layout::Custom(custom),
        () if arguments.home => Layout::Single(Place::Home),
        () if arguments.shared => Layout::Single(Place::Shared),
        () if arguments.by_id => Layout::Single(Place::ById),
        () if arguments.by_pdh => Layout::Single(Place::ByPdh),
        () if arguments.by_tag => Layout::Single(Place::ByTag),
        () => match (&arguments.collection, &arguments.project) {
            (Some(id), _) if is_uuid(id) && !is_group(id) || portable_data_hash(id).is_some() => {
                Layout::Single(Place::Collection(id.clone()))
            }
            (Some(id), _) => {
                return Err(Refusal::failure(format!(
                    "--collection: '{id}' is neither a uuid nor a portable data hash"
                )));
            }
            (None, Some(uuid)) if is_uuid(uuid) => Layout::Single(Place::Project(uuid.clone())),
            (None, Some(uuid)) => return Err(Refusal::failure(format!("--project: '{uuid}' is not a uuid"))),
            (None, None) => Layout::Default,
        },
    })
}

/// A name of the top level is one component.
fn check_name(name: &str) -> Result<(), Refusal> {
    if crate::vfs::is_showable(name.as_bytes()) {
        return Ok(());
    }
    Err(Refusal::failure(format!("Mount point '{name}' is not supported.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout_of(line: &str) -> Result<Layout, u8> {
        let arguments = arguments::parse(&format!("{line} m")).expect("valid");
        layout(&arguments).map_err(|refusal| refusal.status)
    }

    #[test]
    fn modes_choose_the_tree() {
        for line in ["", "--all", "--custom"] {
            assert_eq!(layout_of(line), Ok(Layout::Default), "{line}");
        }
        assert_eq!(layout_of("--home"), Ok(Layout::Single(Place::Home)));
        let custom = Layout::Custom(vec![("a".into(), Place::ById), ("b".into(), Place::Shared)]);
        assert_eq!(layout_of("--mount-shared b --mount-by-id a --custom"), Ok(custom));
        let later = Layout::Custom(vec![("a".into(), Place::Home)]);
        assert_eq!(layout_of("--mount-home a --mount-by-id a"), Ok(later), "the kinds have an order, later ones win");
    }

    #[test]
    fn what_arv_mount_refuses_is_refused() {
        for line in
            ["--home --mount-tmp x", "--all --mount-by-id x", "--mount-home ..", "--mount-by-id a/b", "--mount-tmp ."]
        {
            assert_eq!(layout_of(line), Err(FAILURE), "{line}");
        }
        assert_eq!(layout_of("--collection nonsense"), Err(FAILURE));
        assert_eq!(layout_of("--project zzzzz"), Err(FAILURE));
    }
}
