//! `kill -9` of a process that writes as fast as it can.

use super::*;
use std::io::Read;
use std::process::{Command, Stdio};

const FOLDER: &str = "ARVADOS_TEST_JOURNAL_CRASH";

/// Says on standard error what has been acknowledged, until it is killed.
#[test]
#[ignore = "runs as the victim of the test below"]
fn victim() {
    let Some(account) = std::env::var_os(FOLDER) else { return };
    let journal = Journal::create(Path::new(&account), &info(), NO_LIMIT).unwrap();
    let mut waiting = Vec::new();
    for number in 0_u64.. {
        let sequence = journal.append(ONE, &file(&number.to_string(), &[3; 20_000]), number % 16 == 0).unwrap();
        std::io::Write::write_all(&mut std::io::stderr(), format!("+{number}\n").as_bytes()).unwrap();
        waiting.push(number);
        // So that there are rewrites, too, and the log is now and then empty.
        if waiting.len() == 90 {
            let settled = waiting.last().copied().unwrap_or_default();
            std::io::Write::write_all(&mut std::io::stderr(), format!("-{settled}\n").as_bytes()).unwrap();
            journal.settled(ONE, if number % 7 == 0 { sequence } else { Sequence(sequence.0 - 5) }).unwrap();
            waiting.clear();
        }
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let mut proved = 0;
    for round in 0..12 {
        let (_directory, account) = account();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::crash::victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, &account)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
        });
        std::thread::sleep(Duration::from_millis(60 + 17 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let text = reader.join().unwrap().unwrap();
        let number = |sign: char| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(sign)?.parse::<u64>().ok());
            lines.next_back()
        };
        let Some(last) = number('+') else { continue };
        let first = number('-').map_or(0, |settled| settled + 1);
        let all = Journal::recover(&account).unwrap();
        let found: Vec<String> = all.iter().flat_map(|one| paths(one, ONE)).collect();
        for wanted in first..=last {
            assert!(found.contains(&wanted.to_string()), "{wanted} of {first}..={last} is lost: {found:?}");
            proved += 1;
        }
        // At most the one that was not acknowledged yet is there in addition, and what was not settled of the last turn.
        assert!(found.iter().all(|path| path.parse::<u64>().unwrap() <= last + 1));
    }
    assert!(proved > 0, "no round proved anything");
}
