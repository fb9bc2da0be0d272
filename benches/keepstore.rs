//! How fast the embedded cluster's keepstore sends blocks, beside nginx.
//!
//! Both serve the same file from the same page cache over loopback in one run, in turns, so that whatever else the machine
//! does hits both; what counts is the ratio. The cluster must not be the bottleneck of a benchmark of the mount: it has
//! to reach half of nginx at least. Also measured: what the clients' upload costs, and the memory that many transfers at
//! once take.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arvados::cluster::{Cluster, Options};
use md5::{Digest, Md5};

const BLOCK: usize = 64 << 20;
const ROUNDS: usize = 5;
/// Blocks that one connection fetches in a round.
const BLOCKS_PER_ROUND: usize = 6;
/// What the cluster promises (issue: "no less than half of what nginx serves").
const PROMISE: f64 = 0.5;
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        println!("skipped: nginx is not installed (Debian: apt-get install nginx-light)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Options::new(folder.path().join("data"))).unwrap();
    let keep = cluster.keepstores()[0].address();

    let block: Vec<u8> =
        (0..BLOCK as u32 / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let hash = hex::encode(Md5::digest(&block));
    let began = Instant::now();
    let locator = put(keep, &hash, &block);
    let first = began.elapsed();
    let began = Instant::now();
    put(keep, &hash, &block);
    println!("upload of 64 MiB: new {}, known {}", rate(BLOCK, first), rate(BLOCK, began.elapsed()));

    let root = cluster.keepstores()[0].keepstore().volumes[0].root().to_owned();
    let nginx = Nginx::start(folder.path(), &root);
    let ours = (keep, format!("/{locator}"));
    let theirs = (nginx.address, format!("/{}/{hash}", &hash[..3]));
    let mut kept = true;
    for connections in [1, 4] {
        let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            our_rates.push(fetch(&ours, connections));
            their_rates.push(fetch(&theirs, connections));
        }
        let (our_rate, their_rate) = (best(&our_rates), best(&their_rates));
        let ratio = our_rate / their_rate;
        kept &= ratio >= PROMISE;
        println!(
            "download of 64 MiB blocks, {connections} connections: keepstore {our_rate:.0} MiB/s, nginx {their_rate:.0} MiB/s, ratio {ratio:.2}"
        );
    }
    let before = resident();
    fetch(&ours, 32);
    println!("memory of 32 downloads at once: {} KiB more", resident().saturating_sub(before));
    drop(nginx);
    cluster.stop();
    assert!(kept, "slower than {PROMISE} of nginx");
}

/// The round that was disturbed least: what else the machine does can only make a round slower.
fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

fn rate(bytes: usize, took: Duration) -> String {
    format!("{:.0} MiB/s", bytes as f64 / f64::from(1 << 20) / took.as_secs_f64())
}

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Reads one answer into `buffer` piece by piece; returns status, length of the body, and its beginning.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> (u16, usize, Vec<u8>) {
    let mut head = Vec::new();
    let end = loop {
        let read = stream.read(buffer).unwrap();
        assert!(read > 0, "the server has closed the connection");
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim().parse().unwrap();
    let mut got = head.len() - end;
    while got < length {
        let read = stream.read(buffer).unwrap();
        assert!(read > 0, "the server has closed the connection in the middle");
        got += read;
    }
    (text[9..12].parse().unwrap(), length, head[end..].to_vec())
}

fn put(keep: SocketAddr, hash: &str, block: &[u8]) -> String {
    let mut stream = connect(keep);
    let head = format!(
        "PUT /{hash} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\nContent-Length: {}\r\n\r\n",
        block.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(block).unwrap();
    let (status, _, body) = answer(&mut stream, &mut [0; 4096]);
    assert_eq!(status, 200);
    String::from_utf8(body).unwrap().trim().to_owned()
}

/// Fetches over so many connections at once; returns MiB/s of all together.
fn fetch((address, path): &(SocketAddr, String), connections: usize) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut stream = connect(*address);
                let mut buffer = vec![0; 256 << 10];
                for _ in 0..BLOCKS_PER_ROUND {
                    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\r\n");
                    stream.write_all(request.as_bytes()).unwrap();
                    let (status, length, _) = answer(&mut stream, &mut buffer);
                    assert_eq!((status, length), (200, BLOCK));
                }
            });
        }
    });
    (connections * BLOCKS_PER_ROUND * BLOCK) as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

struct Nginx {
    process: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(folder: &Path, root: &Path) -> Nginx {
        let folder = folder.join("nginx");
        std::fs::create_dir(&folder).unwrap();
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let configuration = format!(
            "daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log; user root;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {folder}; proxy_temp_path {folder};\n\
             fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
             server {{ listen {address}; root {root}; }} }}\n",
            folder = folder.display(),
            root = root.display(),
        );
        let file: PathBuf = folder.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let process = Command::new("nginx").arg("-c").arg(&file).stderr(Stdio::null()).spawn().unwrap();
        let nginx = Nginx { process, address };
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nginx does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.process.wait();
    }
}
