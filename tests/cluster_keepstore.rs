//! The keepstores of the embedded cluster, asked over their sockets as clients and administrators ask them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use arvados::cluster::clock::{Clock, ShiftedClock};
use arvados::cluster::{Cluster, KeepstoreLayout, Options, Running};
use arvados::keep::hash::BlockHash;

const LIMIT: Duration = Duration::from_secs(30);

struct Fixture {
    cluster: Running,
    clock: Arc<ShiftedClock>,
    _folder: tempfile::TempDir,
}

fn fixture(keepstores: Option<Vec<KeepstoreLayout>>) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ShiftedClock::default());
    let mut options = Options::new(folder.path().join("data"));
    options.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    options.keepstores = keepstores;
    Fixture { cluster: Cluster::start(options).unwrap(), clock, _folder: folder }
}

impl Fixture {
    fn keep(&self, index: usize) -> SocketAddr {
        self.cluster.keepstores()[index].address()
    }

    fn root_token(&self) -> String {
        self.cluster.configuration().load().system_root_token.expose().to_owned()
    }

    fn path(&self, hash: &str) -> std::path::PathBuf {
        self.cluster.keepstores()[0].keepstore().volumes[0].path(hash.parse().unwrap())
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// One request on a connection of its own; the answer ends with the connection.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = connect(address);
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // A refusal may come, and the connection end, before all is sent.
    let _ = stream.write_all(body);
    read_answer(&mut stream)
}

fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer") + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let body = all[end..].to_vec();
    let body = if head.contains("Transfer-Encoding: chunked") { unchunk(&body) } else { body };
    Answer { status: head[9..12].parse().unwrap(), head, body }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("a chunk");
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
}

const USER: (&str, &str) = ("Authorization", "Bearer v2/zzzzz-gj3su-0123456789abcde/secret");

fn put(address: SocketAddr, data: &[u8]) -> String {
    let answer = ask(address, "PUT", &format!("/{}", BlockHash::of(data)), &[USER], data);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().trim().to_owned()
}

#[test]
fn a_block_comes_back_as_it_was_stored_and_only_with_its_signature() {
    let fixture = fixture(None);
    let data: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let locator = put(fixture.keep(0), &data);
    let answer = ask(fixture.keep(0), "GET", &format!("/{locator}"), &[USER], b"");
    assert_eq!(answer.status, 200);
    assert!(answer.body == data);
    assert_eq!(
        ask(fixture.keep(0), "GET", &format!("/{locator}"), &[("Authorization", "Bearer other")], b"").status,
        400
    );
    assert_eq!(ask(fixture.keep(0), "GET", &format!("/{locator}"), &[], b"").status, 401);
    fixture.clock.advance(Duration::from_secs(15 * 24 * 3600));
    let answer = ask(fixture.keep(0), "GET", &format!("/{locator}"), &[USER], b"");
    assert_eq!((answer.status, answer.text()), (401, "expired signature\n"));
}

#[test]
fn several_requests_share_a_connection_and_a_pipelined_one_is_not_lost() {
    let fixture = fixture(None);
    let locator = put(fixture.keep(0), b"foo");
    let mut stream = connect(fixture.keep(0));
    let get = format!("GET /{locator} HTTP/1.1\r\nHost: x\r\n{}: {}\r\n", USER.0, USER.1);
    stream.write_all(format!("{get}\r\n{get}\r\n{get}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK\r\n").count(), 3);
    assert_eq!(all.matches("\r\n\r\nfoo").count(), 3);
}

#[test]
fn an_upload_in_chunks_is_taken() {
    let fixture = fixture(None);
    let mut stream = connect(fixture.keep(0));
    let head =
        "PUT /acbd18db4cc2f85cedef654fccc4a4d8 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for piece in ["1\r\nf\r\n", "2;x=y\r\noo\r\n", "0\r\nTrailer: x\r\n\r\n"] {
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(piece.as_bytes()).unwrap();
    }
    let answer = read_answer(&mut stream);
    assert_eq!((answer.status, answer.text()), (200, "acbd18db4cc2f85cedef654fccc4a4d8+3\n"));
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_at_once() {
    let fixture = fixture(None);
    let mut stream = connect(fixture.keep(0));
    let head = "PUT /acbd18db4cc2f85cedef654fccc4a4d8 HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"foo").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
}

#[test]
fn an_upload_that_is_cut_off_is_never_served() {
    let fixture = fixture(None);
    let data = vec![7; 1 << 20];
    let hash = BlockHash::of(&data);
    let mut stream = connect(fixture.keep(0));
    stream.write_all(format!("PUT /{hash} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", data.len()).as_bytes()).unwrap();
    stream.write_all(&data[..data.len() / 2]).unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop(stream);
    let root = fixture.root_token();
    let root = ("Authorization", &*format!("Bearer {root}"));
    assert_eq!(ask(fixture.keep(0), "GET", "/index", &[root], b"").text(), "\n");
    let folder = fixture.path(&hash.to_string()).parent().unwrap().to_owned();
    let deadline = std::time::Instant::now() + LIMIT;
    // Without a folder the connection was seen to be gone before anything was written.
    while std::fs::read_dir(&folder).is_ok_and(|entries| entries.count() > 0) {
        assert!(std::time::Instant::now() < deadline, "the temporary file stays");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_block_damaged_on_the_disk_is_neither_served_nor_accepted_again() {
    let fixture = fixture(None);
    let locator = put(fixture.keep(0), b"corrupt me");
    assert_eq!(ask(fixture.keep(0), "GET", &format!("/{locator}"), &[USER], b"").status, 200);
    std::fs::write(fixture.path(&locator[..32]), "corrupt ME").unwrap();
    let answer = ask(fixture.keep(0), "GET", &format!("/{locator}"), &[USER], b"");
    assert_eq!((answer.status, answer.text()), (502, "checksum mismatch in stored data\n"));
    assert_eq!(ask(fixture.keep(0), "HEAD", &format!("/{locator}"), &[USER], b"").status, 502);
    let answer = ask(fixture.keep(0), "PUT", &format!("/{}", &locator[..32]), &[USER], b"corrupt me");
    assert_eq!((answer.status, answer.text()), (500, "hash collision\n"));
}

#[test]
fn a_trash_list_takes_old_blocks_that_are_as_they_were_seen_and_untrash_brings_them_back() {
    let fixture = fixture(None);
    let root = fixture.root_token();
    let root = ("Authorization", &*format!("Bearer {root}"));
    let locator = put(fixture.keep(0), b"foo");
    put(fixture.keep(0), b"bar");
    let index = ask(fixture.keep(0), "GET", "/index/acb", &[root], b"");
    let seen = index.text().lines().next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let list = |seen: &str| format!(r#"[{{"locator": "{locator}", "block_mtime": {seen}}}]"#);
    fixture.clock.advance(Duration::from_secs(15 * 24 * 3600));
    assert_eq!(ask(fixture.keep(0), "PUT", "/trash", &[root], list("1").as_bytes()).status, 200);
    std::thread::sleep(Duration::from_millis(200));
    assert!(fixture.path(&locator[..32]).exists(), "a block that was touched meanwhile is gone");
    assert_eq!(ask(fixture.keep(0), "PUT", "/trash", &[root], list(&seen).as_bytes()).status, 200);
    let deadline = std::time::Instant::now() + LIMIT;
    while fixture.path(&locator[..32]).exists() {
        assert!(std::time::Instant::now() < deadline, "the list is not worked on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ask(fixture.keep(0), "GET", "/index", &[root], b"").text().lines().count(), 2);
    assert_eq!(ask(fixture.keep(0), "PUT", &format!("/untrash/{locator}"), &[root], b"").status, 200);
    assert_eq!(ask(fixture.keep(0), "PUT", &format!("/untrash/{locator}"), &[root], b"").status, 404);
    assert!(fixture.path(&locator[..32]).exists());
    for bad in ["{", r#"[{"locator": 3}]"#] {
        assert_eq!(ask(fixture.keep(0), "PUT", "/trash", &[root], bad.as_bytes()).status, 400, "{bad}");
    }
}

#[test]
fn a_pull_list_fetches_blocks_from_another_keepstore() {
    let fixture = fixture(Some(vec![KeepstoreLayout::single(&[]), KeepstoreLayout::single(&[])]));
    let locator = put(fixture.keep(0), b"foo");
    let root = fixture.root_token();
    let root = ("Authorization", &*format!("Bearer {root}"));
    let unsigned = &locator[..34];
    let list =
        format!(r#"[{{"locator": "{unsigned}", "servers": ["http://127.0.0.1:1", "http://{}"]}}]"#, fixture.keep(0));
    assert_eq!(ask(fixture.keep(1), "PUT", "/pull", &[root], list.as_bytes()).status, 200);
    let deadline = std::time::Instant::now() + LIMIT;
    while ask(fixture.keep(1), "GET", &format!("/{locator}"), &[USER], b"").status != 200 {
        assert!(std::time::Instant::now() < deadline, "the list is not worked on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lone_keepstore_satisfies_clients_that_want_two_copies() {
    let fixture = fixture(None);
    let answer = ask(fixture.keep(0), "PUT", "/acbd18db4cc2f85cedef654fccc4a4d8", &[USER], b"foo");
    assert_eq!(answer.header("X-Keep-Replicas-Stored"), Some("2"));
    assert_eq!(answer.header("X-Keep-Storage-Classes-Confirmed"), Some("default=2"));
}

#[test]
fn metrics_and_health_are_for_the_management_token_only() {
    let fixture = fixture(None);
    put(fixture.keep(0), b"foo");
    let token = fixture.cluster.configuration().load().management_token.expose().to_owned();
    let management = ("Authorization", &*format!("Bearer {token}"));
    let metrics = ask(fixture.keep(0), "GET", "/metrics", &[management], b"");
    assert!(
        metrics.text().contains(r#"requests_total{service="keep0",method="PUT",status="200"} 1"#),
        "{}",
        metrics.text()
    );
    assert_eq!(ask(fixture.keep(0), "GET", "/_health/ping", &[management], b"").text(), "{\"health\":\"OK\"}\n");
    for path in ["/metrics", "/_health/ping"] {
        assert_eq!(ask(fixture.keep(0), "GET", path, &[], b"").status, 401, "{path}");
        assert_eq!(ask(fixture.keep(0), "GET", path, &[USER], b"").status, 403, "{path}");
    }
}

#[test]
fn blocks_and_addresses_survive_a_restart_and_a_folder_is_used_by_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path().join("data"));
    let first = Cluster::start(options.clone()).unwrap();
    let addresses = (first.address(), first.keepstores()[0].address());
    let locator = put(addresses.1, b"foo");
    let refused = Cluster::start(options.clone()).err().expect("two clusters share a folder").to_string();
    assert!(refused.contains("in use by another cluster process (pid"), "{refused}");
    first.stop();
    let second = Cluster::start(options).unwrap();
    assert_eq!((second.address(), second.keepstores()[0].address()), addresses);
    assert_eq!(ask(addresses.1, "GET", &format!("/{locator}"), &[USER], b"").body, b"foo");
}

#[test]
fn a_port_that_is_taken_is_reported_with_the_option_to_change_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path().join("data"));
    options.port = Some(taken.local_addr().unwrap().port());
    let error = Cluster::start(options).err().expect("a port is shared").to_string();
    assert!(error.contains("--port"), "{error}");
}
