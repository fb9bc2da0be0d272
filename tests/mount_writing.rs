//! What a mount that writes must do right, above all where `arv-mount` and the Go mount do not: every test is named after
//! the behaviour, and says which defect of arv-mount.md 3 and 8.1 or go-filesystem.md 1.8 to 3.3 it is about.
//!
//! `ARVADOS_TEST_MOUNT=…/bin/arv-mount cargo test --test mount_writing` shows which of them the real `arv-mount` fails:
//! a test that it passes though its defect is known would prove nothing.

mod mount_support;
mod support;

#[path = "mount_writing/aliases.rs"]
mod aliases;
#[path = "mount_writing/attributes.rs"]
mod attributes;
#[path = "mount_writing/conflicts.rs"]
mod conflicts;
#[path = "mount_writing/failures.rs"]
mod failures;
#[path = "mount_writing/fixture.rs"]
mod fixture;
#[path = "mount_writing/guards.rs"]
mod guards;
#[path = "mount_writing/journal.rs"]
mod journal;
#[path = "mount_writing/journals.rs"]
mod journals;
#[path = "mount_writing/meanwhile.rs"]
mod meanwhile;
#[path = "mount_writing/moves.rs"]
mod moves;
#[path = "mount_writing/names.rs"]
mod names;
#[path = "mount_writing/operations.rs"]
mod operations;
#[path = "mount_writing/policy_error.rs"]
mod policy_error;
#[path = "mount_writing/programs.rs"]
mod programs;
#[path = "mount_writing/projects.rs"]
mod projects;
#[path = "mount_writing/recovery.rs"]
mod recovery;
#[path = "mount_writing/refusals.rs"]
mod refusals;
#[path = "mount_writing/saving.rs"]
mod saving;
#[path = "mount_writing/signatures.rs"]
mod signatures;
#[path = "mount_writing/slowness.rs"]
mod slowness;
