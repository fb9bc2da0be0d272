//! Saying what a save of ours has overwritten.
//!
//! Under `--commit-guard=auto` one case cannot be seen in time: another client saves the very path that we save, in that
//! moment, with no earlier sign of it. Afterwards the event of our save tells what stood there ([`echo`](super::echo)), and its log record
//! has the text. From that, from what we thought stood there and from what stands there now follows which paths of the other
//! client are lost. The log says which, and how to get them back.

use crate::actors::collection::CollectionActor;
use crate::actors::collection::echo::Overwritten;
use crate::actors::work::Work;
use crate::remote::api::{Api, LoggedManifests};
use crate::tree::{NodeId, Snapshot, diff, same_content};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::sync::Arc;
use std::time::Instant;

/// Paths that a message names; of the others it gives the number.
const MOST_NAMED: usize = 20;

impl CollectionActor {
    /// An event told that a save of ours hit something: says what, as far as can be found out.
    pub(super) fn report_overwritten(&mut self, found: Vec<Overwritten>, context: &mut Context<Self>) {
        self.local.guard.saw_others(Instant::now());
        for found in found {
            let (api, uuid) = (self.environment.api.clone(), self.cell.key().clone());
            let base = self.cell.shared().base(&found.base);
            let work = async move {
                report(&api, &uuid, &found, base).await;
                Ok(())
            };
            let work = Work::start(&self.environment.network, "looking for what was overwritten", work);
            context.spawn(work.into_actor(self).map(|_, _, _| ()));
        }
    }
}

async fn report(api: &Arc<dyn Api>, collection: &str, overwritten: &Overwritten, base: Option<Snapshot>) {
    let Overwritten { log, base: expected, found } = overwritten;
    let logged = api.logged_manifests(*log).await;
    let has_text = logged.as_ref().is_ok_and(|logged| logged.as_ref().is_some_and(|logged| logged.old.is_some()));
    let paths = match logged {
        Ok(Some(logged)) => tokio::task::block_in_place(|| named(base.as_ref(), &logged)),
        Ok(None) => Err("the log record cannot be seen".to_owned()),
        Err(error) => Err(format!("the log record cannot be read: {error}")),
    };
    let is_kept = api.collection(found, &["portable_data_hash"], None).await.is_ok();
    let recovery = match (is_kept, has_text) {
        (true, _) => format!("the cluster still has it as {found}: read it at by_id/{found}"),
        (false, true) => format!(
            "no collection has {found} any more: while the log keeps the record and Keep the blocks, an administrator can make a \
             collection of properties.old_attributes.manifest_text in log record {log}, and it will be {found}"
        ),
        (false, false) => format!("no collection has {found} any more, and its text is not known"),
    };
    match paths {
        Ok(paths) if paths.is_empty() => tracing::warn!(
            collection,
            log_record = log,
            expected,
            found,
            "another client saved in the same moment as this mount; nothing of it was overwritten"
        ),
        paths => tracing::error!(
            collection,
            log_record = log,
            expected,
            found,
            paths = paths.unwrap_or_else(|problem| format!("unknown: {problem}")),
            recovery,
            "another client saved the same path in the same moment, and this mount's save overwrote it; from now on every save \
             here keeps the old version"
        ),
    }
}

/// The lost paths as text; nothing if there are none.
fn named(base: Option<&Snapshot>, logged: &LoggedManifests) -> Result<String, String> {
    let Some(old) = &logged.old else { return Err("the log record has no old manifest".to_owned()) };
    let Some(base) = base else { return Err("what stood there before is not known any more".to_owned()) };
    let found = Snapshot::parse(old).map_err(|error| format!("the old manifest cannot be read: {error}"))?;
    // Whatever it is, a text that cannot be read saves nothing of theirs.
    let after = logged.new.as_deref().and_then(|text| Snapshot::parse(text).ok());
    let lost = lost(base, &found, after.as_ref());
    let mut names: Vec<_> =
        lost.iter().take(MOST_NAMED).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    if lost.len() > MOST_NAMED {
        names.push(format!("and {} more", lost.len() - MOST_NAMED));
    }
    Ok(names.join(", "))
}

/// The paths at which `found` differs from `base` and which are not so in what came `after`. Whatever differs counts when that is
/// not known. Files, empty directories, and what the other client had removed.
fn lost(base: &Snapshot, found: &Snapshot, after: Option<&Snapshot>) -> Vec<Vec<u8>> {
    let mut lost = Vec::new();
    for change in diff(base, found) {
        let Some(top) = change.new else {
            if after.is_none_or(|after| after.find(&change.path).is_some()) {
                lost.push(change.path);
            }
            continue;
        };
        for node in leaves(found, top) {
            let path = found.path(node);
            let is_there = |after: &Snapshot| {
                let there = after.find(&path);
                there.is_some_and(|there| match found.is_directory(node) {
                    true => after.is_directory(there),
                    false => same_content(found, node, after, there),
                })
            };
            if !after.is_some_and(is_there) {
                lost.push(path);
            }
        }
    }
    lost.sort();
    lost
}

/// The files and empty directories at or below a node.
fn leaves(tree: &Snapshot, top: NodeId) -> Vec<NodeId> {
    let mut pending = vec![top];
    let mut leaves = Vec::new();
    while let Some(node) = pending.pop() {
        let before = pending.len();
        pending.extend(tree.children(node));
        if pending.len() == before {
            leaves.push(node);
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    const Y: &str = "37b51d194a7513e45b56f6524f2d51f2+3";
    const Z: &str = "73feffa4b7f6bb68e44cf984c85f6e88+3";

    fn tree(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    fn lost_paths(base: &str, found: &str, after: Option<&str>) -> String {
        let after = after.map(tree);
        let paths = lost(&tree(base), &tree(found), after.as_ref());
        paths.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn path_of_both_is_lost_and_one_of_the_other_alone_is_not() {
        let base = format!(". {X} 0:3:a 0:3:b 0:3:c\n");
        let found = format!(". {X} {Y} 3:3:a 3:3:b 0:3:c\n./d {Y} 0:3:new\n");
        let after = format!(". {X} {Y} {Z} 6:3:a 3:3:b 0:3:c\n./d {Y} 0:3:new\n");
        assert_eq!(lost_paths(&base, &found, Some(&after)), "a");
        assert_eq!(lost_paths(&base, &found, None), "a b d/new");
        assert_eq!(lost_paths(&base, &base, Some(&after)), "");
    }

    #[test]
    fn removal_that_was_undone_is_lost() {
        let (base, found) = (format!(". {X} 0:3:a 0:3:b\n"), format!(". {X} 0:3:b\n"));
        assert_eq!(lost_paths(&base, &found, Some(&base)), "a");
        assert_eq!(lost_paths(&base, &found, Some(&found)), "");
    }

    #[test]
    fn signed_and_stripped_texts_are_the_same() {
        let signed = format!(". {X}+A{}@7fffffff 0:3:a\n", "0".repeat(40));
        assert_eq!(lost_paths(&signed, &format!(". {X} 0:3:a\n"), None), "");
    }

    #[test]
    fn twenty_paths_are_named_and_the_others_counted() {
        let names: String = (10..35).map(|number| format!(" 0:3:f{number}")).collect();
        let logged = LoggedManifests { old: Some(format!(". {X}{names}\n")), new: Some(String::new()) };
        let text = named(Some(&tree("")), &logged).unwrap();
        assert!(text.starts_with("f10, f11, ") && text.ends_with("f29, and 5 more"), "{text}");
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let none = LoggedManifests::default();
        assert!(named(Some(&tree("")), &none).unwrap_err().contains("no old manifest"));
        let bad = LoggedManifests { old: Some("nonsense".into()), new: None };
        assert!(named(Some(&tree("")), &bad).unwrap_err().contains("cannot be read"));
        assert!(named(None, &LoggedManifests { old: Some(String::new()), new: None }).is_err());
    }
}
