//! Kinds that this cluster keeps no engine for: compute, shell access, keys.
//!
//! There is nothing here that runs a container or logs anybody in, so these tables stay empty of anything that would
//! need it. They exist because `groups/contents` searches them, because the SDK and Workbench list them, and because
//! an empty list in the right envelope is the true answer. Workflows are plain records and can be created.

use crate::cluster::record::attribute::{Attribute, Kind, Use, plain};
use crate::cluster::record::{Layer, Model};

const UUID: Attribute = plain("uuid", Kind::String, "Identifies the record; made by the server.");
const OWNER: Attribute = plain("owner_uuid", Kind::String, "User or project that owns the record.");
const CREATED: Attribute = plain("created_at", Kind::Time, "When the record was created.").used(Use::ReadOnly);
const MODIFIED: Attribute = plain("modified_at", Kind::Time, "When the record was last changed.").used(Use::ReadOnly);
const MODIFIER: Attribute =
    plain("modified_by_user_uuid", Kind::String, "User who made the last change.").used(Use::ReadOnly);
const NAME: Attribute = plain("name", Kind::String, "Name given by a user.");
const DESCRIPTION: Attribute = plain("description", Kind::Text, "Longer text given by a user.");

/// Workflow definitions.
pub static WORKFLOW: Model = Model {
    table: "workflows",
    singular: "workflow",
    class: "Workflow",
    kind: "workflow",
    infix: "7fd4e",
    layer: Layer::Rails,
    internal: &[],
    attributes: &[
        UUID,
        OWNER,
        CREATED,
        MODIFIED,
        MODIFIER,
        NAME,
        DESCRIPTION,
        plain("definition", Kind::Text, "The workflow itself, usually CWL."),
        plain("collection_uuid", Kind::String, "Collection that holds the workflow, if it is kept in one."),
    ],
};

/// SSH keys of users.
pub static AUTHORIZED_KEY: Model = Model {
    table: "authorized_keys",
    singular: "authorized_key",
    class: "AuthorizedKey",
    kind: "authorizedKey",
    infix: "fngyi",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        UUID,
        OWNER,
        MODIFIER,
        MODIFIED,
        NAME,
        plain("key_type", Kind::String, "Kind of key: SSH."),
        plain("authorized_user_uuid", Kind::String, "User whom the key lets in."),
        plain("public_key", Kind::Text, "The public part."),
        plain("expires_at", Kind::Time, "When the key stops working."),
        CREATED,
    ],
};

/// Shell machines.
pub static VIRTUAL_MACHINE: Model = Model {
    table: "virtual_machines",
    singular: "virtual_machine",
    class: "VirtualMachine",
    kind: "virtualMachine",
    infix: "2x53u",
    layer: Layer::Rails,
    internal: &[],
    attributes: &[
        UUID,
        OWNER,
        MODIFIER,
        MODIFIED,
        plain("hostname", Kind::String, "Name of the machine in DNS."),
        CREATED,
    ],
};

/// Requests to run something.
pub static CONTAINER_REQUEST: Model = Model {
    table: "container_requests",
    singular: "container_request",
    class: "ContainerRequest",
    kind: "containerRequest",
    infix: "xvhdp",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        UUID,
        OWNER,
        CREATED,
        MODIFIED,
        MODIFIER,
        NAME,
        DESCRIPTION,
        plain("properties", Kind::Object, "Anything a user wants to note."),
        plain("state", Kind::String, "Uncommitted, Committed or Final."),
        plain("requesting_container_uuid", Kind::String, "Container that made the request."),
        plain("container_uuid", Kind::String, "Container that serves the request."),
        plain("container_count_max", Kind::Integer, "How many containers may be tried."),
        plain("mounts", Kind::Object, "What the container sees at which path."),
        plain("runtime_constraints", Kind::Object, "Memory, processors and the like."),
        plain("container_image", Kind::String, "Collection with the image."),
        plain("environment", Kind::Object, "Environment variables."),
        plain("cwd", Kind::String, "Directory to start in."),
        plain("command", Kind::Array, "What to run."),
        plain("output_path", Kind::String, "Where the output is written."),
        plain("priority", Kind::Integer, "Higher runs first; 0 does not run."),
        plain("expires_at", Kind::Time, "When the request lapses."),
        plain("filters", Kind::Text, "Unused."),
        plain("container_count", Kind::Integer, "How many containers were tried."),
        plain("use_existing", Kind::Boolean, "Whether an earlier result may be used."),
        plain("scheduling_parameters", Kind::Object, "Where it may run."),
        plain("output_uuid", Kind::String, "Collection with the output."),
        plain("log_uuid", Kind::String, "Collection with the logs."),
        plain("output_name", Kind::String, "Name of the output collection."),
        plain("output_ttl", Kind::Integer, "Seconds until the output is trashed; 0: never."),
        plain("output_storage_classes", Kind::Array, "Storage classes of the output."),
        plain("output_properties", Kind::Object, "Properties of the output collection."),
        plain("cumulative_cost", Kind::Float, "What it has cost so far."),
        plain("output_glob", Kind::Array, "Which files belong to the output."),
        plain("service", Kind::Boolean, "Whether it runs until told to stop."),
        plain("published_ports", Kind::Object, "Ports that can be reached from outside."),
    ],
};

/// Runs of something.
pub static CONTAINER: Model = Model {
    table: "containers",
    singular: "container",
    class: "Container",
    kind: "container",
    infix: "dz642",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        UUID,
        OWNER,
        CREATED,
        MODIFIED,
        MODIFIER,
        plain("state", Kind::String, "Queued, Locked, Running, Complete or Cancelled."),
        plain("started_at", Kind::Time, "When it began to run."),
        plain("finished_at", Kind::Time, "When it ended."),
        plain("log", Kind::String, "Portable data hash of the logs."),
        plain("environment", Kind::Object, "Environment variables."),
        plain("cwd", Kind::String, "Directory it started in."),
        plain("command", Kind::Array, "What it runs."),
        plain("output_path", Kind::String, "Where the output is written."),
        plain("mounts", Kind::Object, "What it sees at which path."),
        plain("runtime_constraints", Kind::Object, "Memory, processors and the like."),
        plain("output", Kind::String, "Portable data hash of the output."),
        plain("container_image", Kind::String, "Portable data hash of the image."),
        plain("progress", Kind::Float, "How far it is."),
        plain("priority", Kind::Integer, "Higher runs first; 0 does not run."),
        plain("exit_code", Kind::Integer, "Exit status of the process."),
        plain("auth_uuid", Kind::String, "Token that it runs with."),
        plain("locked_by_uuid", Kind::String, "Token of the dispatcher that holds it."),
        plain("scheduling_parameters", Kind::Object, "Where it may run."),
        plain("runtime_status", Kind::Object, "What it says about itself."),
        plain("runtime_user_uuid", Kind::Text, "User it runs for."),
        plain("runtime_auth_scopes", Kind::Array, "Scopes of its token."),
        plain("lock_count", Kind::Integer, "How often it was locked."),
        plain("gateway_address", Kind::String, "Where its gateway listens."),
        plain("interactive_session_started", Kind::Boolean, "Whether somebody logged in."),
        plain("output_storage_classes", Kind::Array, "Storage classes of the output."),
        plain("output_properties", Kind::Object, "Properties of the output collection."),
        plain("cost", Kind::Float, "What it has cost."),
        plain("subrequests_cost", Kind::Float, "What the containers it asked for have cost."),
        plain("output_glob", Kind::Array, "Which files belong to the output."),
        plain("service", Kind::Boolean, "Whether it runs until told to stop."),
        plain("published_ports", Kind::Object, "Ports that can be reached from outside."),
    ],
};
