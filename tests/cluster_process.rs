//! The embedded cluster as a process of its own: what survives its death, who may use its folder, what its commands say.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use arvados::cli::cluster::client::Client;
use arvados::cluster::directory;
use arvados::keep::hash::BlockHash;
use reqwest::Method;
use serde_json::{Value, json};
use support::{Cluster, arvados, run, succeed};

const LIMIT: Duration = Duration::from_secs(60);

fn client(cluster: &Cluster) -> Client {
    Client::open(&cluster.data()).unwrap()
}

fn command(cluster: &Cluster, words: &[&str]) -> Output {
    run(arvados().arg("cluster").args(words).arg("--data").arg(cluster.data()), LIMIT)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn records_survive_a_kill() {
    let mut cluster = Cluster::start();
    let mut made = Vec::new();
    for number in 0..20 {
        let body = json!({"collection": {"name": format!("number {number}")}});
        made.push(client(&cluster).call(Method::POST, "collections", &[], &body).unwrap());
    }
    let host = client(&cluster).note.api;
    cluster.kill_and_restart();
    assert_eq!(client(&cluster).note.api, host, "clients were told another address");
    for record in made {
        let path = format!("collections/{}", record["uuid"].as_str().unwrap());
        let found = client(&cluster).call(Method::GET, &path, &[], &Value::Null).unwrap();
        assert_eq!((&found["name"], &found["modified_at"]), (&record["name"], &record["modified_at"]));
    }
}

/// Uploads blocks until the server dies; notes which were acknowledged.
fn upload(keep: SocketAddr, seed: u64, acknowledged: &Mutex<Vec<BlockHash>>) {
    let mut number = seed;
    loop {
        number += 1;
        let block: Vec<u8> = (0..150_000_u64).flat_map(|word| (word * number).to_le_bytes()).collect();
        let hash = BlockHash::of(&block);
        let Ok(mut stream) = TcpStream::connect(keep) else { return };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = format!("PUT /{hash} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", block.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&block)).is_err() {
            return;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if !answer.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return;
        }
        acknowledged.lock().unwrap().push(hash);
    }
}

fn blocks(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(data.join("keep0")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

#[test]
fn a_kill_in_the_middle_of_uploads_loses_no_acknowledged_block_and_leaves_no_half_one() {
    let mut cluster = Cluster::start();
    for round in 0..3 {
        let keep = client(&cluster).note.keep[0].trim_start_matches("http://").parse().unwrap();
        let acknowledged = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let acknowledged = &acknowledged;
                scope.spawn(move || upload(keep, (round * 4 + thread) * 1_000_000, acknowledged));
            }
            let deadline = Instant::now() + LIMIT;
            while acknowledged.lock().unwrap().len() < 10 {
                assert!(Instant::now() < deadline, "uploads are too slow");
                std::thread::sleep(Duration::from_millis(5));
            }
            cluster.kill();
        });
        let mut stored = Vec::new();
        for path in blocks(&cluster.data()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if let Ok(hash) = name.parse::<BlockHash>() {
                assert_eq!(BlockHash::of(&std::fs::read(&path).unwrap()), hash, "half a block under its name");
                stored.push(hash);
            } else {
                assert!(name.starts_with("tmp"), "{name}");
            }
        }
        for hash in acknowledged.into_inner().unwrap() {
            assert!(stored.contains(&hash), "{hash} was acknowledged and is gone");
        }
        cluster.restart();
    }
}

#[test]
fn a_folder_is_refused_to_a_second_process() {
    let cluster = Cluster::start();
    let refused = command(&cluster, &["start"]);
    assert_eq!(refused.status.code(), Some(1));
    let pid = client(&cluster).note.pid;
    assert!(text(&refused.stderr).contains(&format!("in use by another cluster process (pid {pid})")), "{refused:?}");
}

#[test]
fn it_ends_on_sigterm_though_a_client_is_connected_and_says_so_to_others() {
    let mut cluster = Cluster::start();
    let keep: SocketAddr = client(&cluster).note.keep[0].trim_start_matches("http://").parse().unwrap();
    let api = client(&cluster).note.api;
    let _idle = (TcpStream::connect(keep).unwrap(), TcpStream::connect(api).unwrap());
    let status = cluster.terminate();
    assert!(status.success(), "{status}");
    let status = command(&cluster, &["status"]);
    assert_eq!(status.status.code(), Some(3));
    assert!(text(&status.stdout).contains("running      no"), "{status:?}");
    for words in [&["env"][..], &["user", "list"], &["token", "list"]] {
        let refused = command(&cluster, words);
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        assert!(text(&refused.stderr).contains("is not running: start it with"), "{refused:?}");
    }
    assert!(!cluster.data().join("running.json").exists());
}

#[test]
fn a_folder_without_a_cluster_is_told_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(arvados().args(["cluster", "status", "--data"]).arg(folder.path()), LIMIT);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("arvados cluster start --data"), "{refused:?}");
}

#[test]
fn users_and_tokens_are_made_listed_and_ended() {
    let cluster = Cluster::start();
    let line = |words: &[&str]| {
        let done = command(&cluster, words);
        assert!(done.status.success(), "{words:?}: {done:?}");
        text(&done.stdout)
    };
    let alice = line(&["user", "create", "alice"]).trim().to_owned();
    assert!(line(&["user", "list"]).contains(&format!("{alice}\talice\tactive\talice@example.com\n")));
    let token = line(&["token", "create", "--user", "alice"]).trim().to_owned();
    let uuid = token.split('/').nth(1).unwrap().to_owned();
    let listed = line(&["token", "list", "--user", "alice"]);
    assert!(listed.contains(&format!("{uuid}\t{alice}\tnever\t[\"all\"]")), "{listed}");
    let secret = token.rsplit('/').next().unwrap();
    assert!(!listed.contains(secret), "a list shows secrets");

    let current = |token: &str| {
        let url = format!("https://{}/arvados/v1/users/current", client(&cluster).note.api);
        let authorization = format!("Authorization: Bearer {token}");
        let mut command = Command::new("curl");
        command.args(["-s", "--max-time", "30", "--cacert"]).arg(cluster.data().join("certificate.pem"));
        serde_json::from_str::<Value>(&succeed(command.args(["-H", &authorization, &url]))).unwrap()
    };
    assert_eq!(current(&token)["username"], "alice");
    line(&["token", "revoke", &uuid]);
    assert_eq!(current(&token)["errors"][0].as_str().map(|text| text.contains("Not logged in")), Some(true));

    let other = line(&["token", "create", "--user", "alice", "--scope", "GET /arvados/v1/users/current"]);
    assert_eq!(current(other.trim())["username"], "alice");
    line(&["user", "deactivate", "alice"]);
    assert!(line(&["user", "list"]).contains("\talice\tinactive\t"));
    assert!(current(other.trim())["errors"].is_array(), "a token outlives its user");

    let unknown = command(&cluster, &["env", "--user", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("user create nobody"), "{unknown:?}");
}

#[test]
fn a_seed_brings_users_tokens_settings_and_objects_with_their_uuids() {
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("seed.json");
    let (alice, token) = ("zzzzz-tpzed-0123456789alice", "v2/zzzzz-gj3su-0123456789alice/notasecretalice");
    let records = json!({
        "configuration": {"blob_signing_ttl": 3600},
        "users": [{"uuid": alice, "username": "alice", "email": "alice@example.com"}],
        "api_client_authorizations": [
            {"uuid": "zzzzz-gj3su-0123456789alice", "owner_uuid": alice, "api_token": "notasecretalice"}
        ],
        "collections": [{"uuid": "zzzzz-4zz18-0123456789alice", "owner_uuid": alice, "name": "seeded"}],
    });
    std::fs::write(&seed, records.to_string()).unwrap();
    let mut cluster = Cluster::start_with(&["--seed", seed.to_str().unwrap()]);
    let environment = text(&command(&cluster, &["env", "--user", "alice"]).stdout);
    assert!(environment.contains(token), "another token than the one in the seed");
    let found = |cluster: &Cluster| {
        client(cluster).call(Method::GET, "collections/zzzzz-4zz18-0123456789alice", &[], &Value::Null).unwrap()
    };
    assert_eq!((&found(&cluster)["name"], &found(&cluster)["owner_uuid"]), (&json!("seeded"), &json!(alice)));
    let (settings, _) = directory::look(&cluster.data()).unwrap();
    assert_eq!(settings.configuration.blob_signing_ttl, Duration::from_secs(3600));
    // The next start has the same option, and must not import everything again.
    cluster.kill_and_restart();
    assert_eq!(found(&cluster)["name"], "seeded");
    assert_eq!(command(&cluster, &["env"]).status.code(), Some(1), "a seeded cluster has the seed's users only");

    std::fs::write(&seed, r#"{"users": [{"nosuch": 1}]}"#).unwrap();
    let data = folder.path().join("other");
    let words = ["cluster", "start", "--seed", seed.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let refused = run(arvados().args(words), LIMIT);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nosuch"), "{refused:?}");
}

#[test]
fn one_environment_serves_many_shells() {
    let cluster = Cluster::start();
    let first = text(&command(&cluster, &["env"]).stdout);
    assert_eq!(text(&command(&cluster, &["env"]).stdout), first, "every shell makes another token");
    assert!(first.contains("export SSL_CERT_FILE=") && first.contains("unset ARVADOS_API_HOST_INSECURE"), "{first}");
    let insecure = text(&command(&cluster, &["env", "--insecure", "--user", "admin"]).stdout);
    assert!(insecure.contains("export ARVADOS_API_HOST_INSECURE=true") && !insecure.contains("SSL_CERT_FILE"));
    // What leads elsewhere does not in such a shell.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "eval \"$0\" && echo \"$ARVADOS_KEEP_SERVICES,$ARVADOS_KEEP_PROXY,${KEEP_LOCAL_STORE-unset}\"",
        &first,
    ]);
    for name in ["ARVADOS_KEEP_SERVICES", "ARVADOS_KEEP_PROXY", "KEEP_LOCAL_STORE"] {
        shell.env(name, "https://elsewhere");
    }
    assert_eq!(text(&run(&mut shell, LIMIT).stdout), ",,unset\n");
}

#[test]
fn secrets_are_in_private_files_and_in_no_log() {
    let cluster = Cluster::start();
    let token = text(&command(&cluster, &["token", "create"]).stdout).trim().to_owned();
    let url = format!("https://{}/arvados/v1/users/current?api_token={token}", client(&cluster).note.api);
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "30", "--cacert"]).arg(cluster.data().join("certificate.pem")).arg(url);
    assert!(succeed(&mut curl).contains("\"username\":\"user\""));
    let (settings, _) = directory::look(&cluster.data()).unwrap();
    let configuration = &settings.configuration;
    let secrets = [
        token.rsplit('/').next().unwrap(),
        configuration.system_root_token.expose(),
        configuration.management_token.expose(),
        configuration.blob_signing_key.expose(),
    ];
    let log = cluster.log();
    assert!(log.contains("/arvados/v1/users/current"), "the request is not in the log");
    for secret in secrets {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(cluster.data()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert!(mode == 0 || entry.file_name().to_str().unwrap().starts_with("records.sqlite"), "{entry:?}: {mode:o}");
    }
    assert_eq!(std::fs::metadata(cluster.data()).unwrap().permissions().mode() & 0o077, 0);
}
