use super::*;
use crate::keep::PortableDataHash;

/// The abbreviations of `protocol.md` 5.7, and `\n` for a newline.
pub(crate) fn expand(text: &str) -> String {
    let word = |word: &str| match word {
        "F" => "acbd18db4cc2f85cedef654fccc4a4d8+3".to_owned(),
        "B" => "37b51d194a7513e45b56f6524f2d51f2+3".to_owned(),
        "Z" => "73feffa4b7f6bb68e44cf984c85f6e88+3".to_owned(),
        "E" => EMPTY_BLOCK.to_owned(),
        other => other.to_owned(),
    };
    text.split('\n').map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn portable_data_hashes_of_the_published_vectors() {
    for (text, hash) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e+0"),
        (". F 0:3:foo\n", "1f4b0bc7583c2a7f9102c395f4ffc5e3+45"),
        (". F B 0:3:foo 3:3:bar 2:2:span\n", "a2b4945224f8999c2646b360e714b08a+97"),
        (". F 0:3:foo\n./sub B 0:3:bar\n./sub/deep Z 0:3:baz\n", "f3ef07e55cab75432cc118982a058cd2+148"),
        (". E 0:0:empty\n", "988c44767737c1c5d02ba76fb981e48a+47"),
        ("./emptydir E 0:0:\\056\n", "b9597b989c6d8e97164f96502ebb00d6+55"),
        (". F 0:3:a\\040b 0:3:c\\134d 0:3:e\\072f\n./dir\\040x B 0:3:bar\n", "d5e0e96b3c6f58e0e55af33750e72204+124"),
        (". F 0:3:café.txt\n", "d408c17dca7776c71eb3763dec9bbc7a+51"),
        (". F B 0:3:foobar 3:3:foobar\n", "a625069e130b69709a9947b62f9c20ad+94"),
        (". F 0:3:d/x\n./d B 0:3:x\n", "ece4a76971a8e0992cd4f7886e37c3e7+90"),
        (". F 0:3:a/b/foo\n", "bfce587a83425308a20de5ecfe541346+49"),
        (". F E B 0:6:foobar\n", "c9379469be7e03e4a59ad7fb6898b963+118"),
        (". F B F 0:9:foobarfoo\n", "b5d9de6eb45492e8b3929db08a569849+121"),
        (". F B 3:3:z 0:3:a 1:4:m\n", "6d55fa8b0dbae4b9944cc1d4505bdc94+90"),
        (". F 0:3:foo\n. B 0:3:bar\n", "df94eedc1491b197482b5266ee371ca9+90"),
        ("./d E 0:0:.\n", "4139de29d2351cf1fb5f5c5c16febbc8+45"),
        (". F 0:9:foo\n", "4949a2072b59c93d9a896549891cb0cc+45"),
        (". E 0:0:d/\\056\n", "452abc3b101f90682ce3db57c5dcff40+48"),
        (". F 0:3:a\\\\b\n", "cf8a1d679d6991d9ddaa59c58c2a4413+46"),
        (". F 0:3:caf\\303\\251\n", "0d4eea0c8d6b38e33c229cbf19122cd6+53"),
    ] {
        assert_eq!(PortableDataHash::of_manifest(&expand(text)).to_string(), hash, "{text}");
    }
    let large = ". c449ed86671e4a34a8b8b9430850beba+67108864 09fcfea01c3a141b89dd0dcfa1b7768e+22534144 0:89643008:Docker\\040image.tar\n";
    assert_eq!(PortableDataHash::of_manifest(large).to_string(), "df4f56c6f3c1b820b1174f8300e446ed+117");
}

#[test]
fn hints_do_not_count_in_a_portable_data_hash() {
    let plain = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    let signature = "89118b78732c33104a4d6231e8b5a5fa1e4301e3@7fffffff";
    for hints in [format!("+A{signature}+Kzzzzz"), format!("+Rzzzzz-{signature}"), String::new()] {
        let text = format!(". {plain}{hints} 0:3:foo\n");
        assert_eq!(PortableDataHash::of_manifest(&text).to_string(), "1f4b0bc7583c2a7f9102c395f4ffc5e3+45");
        assert_eq!(portable_text(&text), format!(". {plain} 0:3:foo\n"));
    }
}

#[test]
fn names_are_escaped_as_upstream_does_and_come_back() {
    assert_eq!(escape(b"a b\tc\nd\\e:f\x7f\0"), "a\\040b\\011c\\012d\\134e\\072f\x7f\\000");
    assert_eq!(escape("café".as_bytes()), "café");
    assert_eq!(escape(b"\xff\xe9t\xe9"), "\\377\\351t\\351");
    assert_eq!(&*unescape("caf\\303\\251"), "café".as_bytes());
    assert_eq!(&*unescape("a\\\\b\\056\\400\\9\\"), b"a\\b.\\400\\9\\");
    for name in [&b"\xff\xfe"[..], b"", b"\\040", b"x"] {
        assert_eq!(&*unescape(&escape(name)), name);
    }
}

#[test]
fn a_line_is_taken_apart_without_a_copy() {
    let text = expand("./a:b F B 0:3:foo 2:2:d/bar\n");
    let line = lines(&text).next().unwrap().unwrap();
    assert_eq!((line.number, line.name), (1, "./a:b"));
    assert_eq!(line.locators().map(|locator| locator.unwrap().size().unwrap()).sum::<u64>(), 6);
    let tokens: Vec<_> = line.files().map(|token| token.unwrap()).collect();
    assert_eq!(tokens[1], FileToken { position: 2, length: 2, name: "d/bar" });
}

#[test]
fn damaged_manifests_are_refused_with_line_and_reason() {
    let first_error = |text: &str| {
        lines(text)
            .find_map(|line| match line {
                Err(error) => Some(error),
                Ok(line) => line.locators().find_map(Result::err).or_else(|| line.files().find_map(Result::err)),
            })
            .map(|error| error.to_string())
    };
    for (text, message) in [
        (". F 0:3:foo", "manifest line 1: does not end with a newline: the text was cut off"),
        (". F 0:3:a\n\n", "manifest line 2: no stream name"),
        ("sub F 0:3:foo\n", "manifest line 1: stream name does not start with \".\""),
        (". 0:3:foo\n", "manifest line 1: no locator"),
        (".\n", "manifest line 1: no locator"),
        (". F\n", "manifest line 1: no file token"),
        (
            ".  F 0:3:foo\n",
            "manifest line 1: token 1: not a locator: expected 32 hexadecimal digits, then \"+\" or the end",
        ),
        (". F 0:3:foo \n", "manifest line 1: file token 2 is not \"position:length:name\""),
        (". F 0:x:foo\n", "manifest line 1: file token 1 is not \"position:length:name\""),
        (". F 0:3:\n", "manifest line 1: file token 1 is not \"position:length:name\""),
    ] {
        assert_eq!(first_error(&expand(text)).as_deref(), Some(message), "{text}");
    }
    assert_eq!(first_error(&expand(". F 0:3:a F\n")), first_error(&expand(". F 0:3:a x\n")));
}

/// Recorded answers of the API server (`golden/collections/03-create-invalid-manifest-*`, `03-create-manifest-*`).
#[test]
fn what_the_api_server_refuses_is_refused_in_its_words() {
    let told = |text: &str| validate(&expand(text)).map_err(|error| error.to_string());
    let stream = |number: usize, reason: &str| Err(format!("Manifest invalid for stream {number}: {reason}"));
    assert_eq!(told(". F 0:3:foo.txt"), Err("Invalid manifest: does not end with newline".to_owned()));
    assert_eq!(told("sub F 0:3:foo.txt\n"), stream(1, "missing or invalid stream name \"sub\""));
    assert_eq!(told(". F\n"), stream(1, "no file tokens"));
    assert_eq!(told(". 0:3:foo.txt\n"), stream(1, "missing or invalid locator \"0:3:foo.txt\""));
    assert_eq!(told(". F 0:3:../foo.txt\n"), stream(1, "invalid file token \"0:3:../foo.txt\""));
    assert_eq!(told(". E 0:0:d/\\056\n"), stream(1, "invalid file token \"0:0:d/\\\\056\""));
    assert_eq!(told(". F 0:3:a\r\n"), stream(1, "invalid file token \"0:3:a\\r\""));
    assert_eq!(told(". F 0:3:a\n\n. F 0:3:b\n"), stream(2, "missing stream name"));
    assert_eq!(told(".  F 0:3:a\n"), stream(1, "missing or invalid locator \"\""));
    assert_eq!(told(". F 0:3:a\\\\b\n"), stream(1, "invalid file token \"0:3:a\\\\\\\\b\""));
    for text in [". F 0:3:a \n", ". F 0:3:a  0:3:b\n", ".\n", "./ F 0:3:a\n", "./../a F 0:3:a\n", "./a//b F 0:3:a\n"] {
        assert!(told(text).is_err(), "{text}");
    }
    for text in [". F 0:3:a\\400\n", ". F 0:3:a//b\n", ". F 0:3:/a\n", ". F x:3:a\n", ". F 0:3:a F\n", ". F+z 0:3:a\n"]
    {
        assert!(told(text).is_err(), "{text}");
    }
}

#[test]
fn what_the_api_server_stores_is_accepted() {
    for text in [
        "",
        ". F 0:9:foo\n",
        "./emptydir E 0:0:\\056\n",
        ". E 0:0:.\n",
        ". F 0:3:x\n./x B 0:3:y\n",
        ". F 0:3:d/e/a\n",
        ". acbd18db4cc2f85cedef654fccc4a4d8 0:3:a\n",
        ". ACBD18DB4CC2F85CEDEF654FCCC4A4D8+99+Zabc+K@zzzzz 0:3:a\n",
        ". F 0:3:caf\\303\\251\n",
        ". acbd18db4cc2f85cedef654fccc4a4d8+99999999999999999999999 0:3:a\n",
        "./a:b F 0:3:a:b\n",
    ] {
        assert_eq!(validate(&expand(text)), Ok(()), "{text}");
    }
}

#[test]
fn a_refusal_does_not_show_a_signature() {
    let signed = "acbd18db4cc2f85cedef654fccc4a4d8+3+A89118b78732c33104a4d6231e8b5a5fa1e4301e3@7fffffff";
    for text in [format!(". {signed} 0:3:a {signed}\n"), format!("{signed}\n"), format!(". {signed}+* 0:3:a\n")] {
        assert!(!validate(&text).unwrap_err().to_string().contains("89118b"), "{text}");
    }
}

#[test]
fn files_are_counted_by_path_and_bytes_by_token() {
    let count = |text: &str| file_count_and_size(&expand(text)).unwrap();
    let summary = |file_count, file_size_total| Summary { file_count, file_size_total };
    assert_eq!(count(""), summary(0, 0));
    assert_eq!(count("./emptydir E 0:0:\\056\n"), summary(0, 0));
    assert_eq!(count(". F 0:9:foo\n"), summary(1, 9));
    assert_eq!(count(". F B 0:3:a 3:3:a\n. Z 0:3:\\141\n"), summary(1, 9));
    assert_eq!(count(". F 0:3:d/x\n./d B 0:3:x 0:0:y\n"), summary(2, 6));
}

#[test]
fn names_that_can_never_be_saved_are_told_with_the_reason() {
    let long = [b'x'; 256];
    for (name, problem) in [
        (&b""[..], NameProblem::Empty),
        (b".", NameProblem::Dots),
        (b"..", NameProblem::Dots),
        (b"a/b", NameProblem::Slash),
        (b"a\0b", NameProblem::Nul),
        (b"caf\xe9", NameProblem::NotUtf8),
        (&long, NameProblem::TooLong),
        (RESERVED_NAME.as_bytes(), NameProblem::Reserved),
    ] {
        assert_eq!(check_new_name(name, true), Err(problem));
    }
    for name in [&long[1..], b"...", b" ", b"a:b\\c\n", "café".as_bytes(), b".arvados#project"] {
        assert_eq!(check_new_name(name, true), Ok(()));
    }
    assert_eq!(check_new_name(RESERVED_NAME.as_bytes(), false), Ok(()));
}
