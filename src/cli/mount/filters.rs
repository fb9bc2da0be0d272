//! Reading `--filters`: JSON on the command line, in a file, or on standard input (arv-mount.md 1.2).

use crate::actors::filters::Filters;
use std::io::Read;

/// A list of filters is written by people; more than this is a mistake (a device, a wrong file).
const LONGEST: u64 = 1 << 20;

/// Reads and checks the argument of `--filters`. Errors: a sentence for the user; the caller exits with status 2.
pub fn read(argument: &str) -> Result<Filters, String> {
    let text = if argument == "-" {
        contents(std::io::stdin().lock()).map_err(|error| format!("cannot read standard input: {error}"))?
    } else {
        let is_json = serde_json::from_str::<serde_json::Value>(argument).is_ok();
        match (std::fs::File::open(argument), is_json) {
            (Ok(_), true) => {
                return Err("the value is both valid JSON and a readable file: write the path as ./…".into());
            }
            (Ok(file), false) => contents(file).map_err(|error| format!("cannot read {argument}: {error}"))?,
            (Err(_), true) => argument.to_owned(),
            (Err(error), false) => return Err(format!("'{argument}' is neither JSON nor a readable file: {error}")),
        }
    };
    let value = serde_json::from_str(&text).map_err(|error| format!("not JSON: {error}"))?;
    Filters::parse(value).map_err(|error| error.to_string())
}

fn contents(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_from_the_argument_or_a_file() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("filters.json");
        std::fs::write(&path, r#"[["collections.name","like","a%"]]"#).expect("writable");
        let path = path.to_str().expect("plain name");
        assert!(read(path).is_ok());
        assert!(read(r#"[["name","=","x"]]"#).is_ok());
        for wrong in ["", "{}", "[1]", "/no/such/file", "[[1,2,3]]", r#"[["a","="]]"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
