use super::*;
use proptest::prelude::*;

const TOKEN: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";

/// A home with one settings file below each of the given directories.
fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    home
}

fn load(home: &Path, variables: &[(&str, &str)]) -> Result<Settings> {
    let home = home.to_str().unwrap();
    let base = [("HOME", home.to_owned()), ("XDG_CONFIG_DIRS", format!("{home}/etc/xdg"))];
    let extra = variables.iter().map(|(name, value)| (*name, value.replace('~', home)));
    Settings::from_environment(&base.into_iter().chain(extra).collect())
}

fn conf(host: &str) -> String {
    format!("ARVADOS_API_HOST={host}\nARVADOS_API_TOKEN={TOKEN}\n")
}

#[test]
fn the_first_file_wins_in_the_documented_order() {
    let home = home(&[
        ("service/settings.conf", &conf("service")),
        ("xdg/arvados/settings.conf", &conf("xdg")),
        (".config/arvados/settings.conf", &conf("user")),
        ("etc/xdg/arvados/settings.conf", &conf("system")),
    ]);
    let host = |variables: &[(&str, &str)]| load(home.path(), variables).unwrap().api_host;
    assert_eq!(host(&[("CONFIGURATION_DIRECTORY", "relative:~/service"), ("XDG_CONFIG_HOME", "~/xdg")]), "service");
    assert_eq!(host(&[("XDG_CONFIG_HOME", "~/xdg")]), "xdg");
    assert_eq!(host(&[("XDG_CONFIG_HOME", "relative")]), "user");
    assert_eq!(host(&[("XDG_CONFIG_HOME", "~/nothing")]), "system");
    assert_eq!(host(&[("ARVADOS_API_HOST", "environment:8000")]), "environment:8000");
    let emptied = load(home.path(), &[("ARVADOS_API_HOST", "")]).unwrap_err();
    assert!(emptied.to_string().starts_with("ARVADOS_API_HOST is not set"), "an empty variable takes the setting away");
}

#[test]
fn values_may_contain_equal_signs_and_lines_may_be_commented_out() {
    let text = format!(
        "# comment\n\n  # another\r\nARVADOS_API_HOST=localhost:1\r\n ARVADOS_API_TOKEN={TOKEN}  \nARVADOS_KEEP_SERVICES=http://h:1/?a=b=c https://[::1]:2\nOTHER=\n"
    );
    let settings = parse(Path::new("x"), &text).unwrap();
    assert_eq!(settings["ARVADOS_API_TOKEN"].value, TOKEN);
    let services = service_list("ARVADOS_KEEP_SERVICES", &settings["ARVADOS_KEEP_SERVICES"]).unwrap();
    assert_eq!(services.iter().map(Url::as_str).collect::<Vec<_>>(), ["http://h:1/?a=b=c", "https://[::1]:2/"]);
}

#[test]
fn errors_name_file_and_line_and_never_the_token() {
    let file = home(&[(".config/arvados/settings.conf", "ARVADOS_API_HOST=h\nexport ARVADOS_API_TOKEN=x\n")]);
    let error = load(file.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("settings.conf:2: expected NAME=value"), "{error}");

    let file = home(&[(".config/arvados/settings.conf", "ARVADOS_API_HOST=https://h/\nARVADOS_API_TOKEN=a b\n")]);
    let error = load(file.path(), &[]).unwrap_err().to_string();
    assert!(error.starts_with("ARVADOS_API_HOST (") && error.contains("settings.conf:1)"), "{error}");
    let error = load(file.path(), &[("ARVADOS_API_HOST", "h")]).unwrap_err().to_string();
    assert!(error.contains("settings.conf:2") && !error.contains("a b"), "{error}");

    let nothing = home(&[]);
    let error = load(nothing.path(), &[]).unwrap_err().to_string();
    let own = nothing.path().join(".config/arvados/settings.conf");
    assert!(error.starts_with("ARVADOS_API_HOST is not set") && error.ends_with(own.to_str().unwrap()), "{error}");
    let error = load(nothing.path(), &[("ARVADOS_API_HOST", "h")]).unwrap_err().to_string();
    assert!(error.starts_with("ARVADOS_API_TOKEN is not set"), "{error}");
}

#[test]
fn flags_and_keep_services() {
    let home = home(&[(".config/arvados/settings.conf", &conf("h"))]);
    let settings = load(home.path(), &[("ARVADOS_API_HOST_INSECURE", "Yes"), ("ARVADOS_DEBUG", "0")]).unwrap();
    assert!(settings.insecure && settings.debug && !settings.disable_websockets);
    let settings =
        load(home.path(), &[("ARVADOS_API_HOST_INSECURE", "0"), ("ARVADOS_KEEP_PROXY", "http://p:1")]).unwrap();
    assert!(!settings.insecure);
    assert_eq!(settings.keep_services[0].as_str(), "http://p:1/");
    let both = [("ARVADOS_KEEP_PROXY", "http://p:1"), ("ARVADOS_KEEP_SERVICES", " http://s:1/x  http://t:2 ")];
    let settings = load(home.path(), &both).unwrap();
    assert_eq!(settings.keep_services.iter().map(Url::as_str).collect::<Vec<_>>(), ["http://s:1/x/", "http://t:2/"]);
    assert!(load(home.path(), &[("ARVADOS_KEEP_SERVICES", "ftp://p:1")]).is_err());
    assert!(load(home.path(), &[("ARVADOS_KEEP_SERVICES", "p:1")]).is_err());
}

#[test]
fn settings_do_not_print_the_token() {
    let settings = Settings::new("h", Token::new(TOKEN).unwrap());
    assert!(!format!("{settings:?}").contains("3kg6k6"));
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "([A-Z_# ]{0,8}=?[ -~é\r\n]{0,20}\n?){0,8}") {
        drop(parse(Path::new("x"), &text));
    }

    #[test]
    fn every_value_comes_back(name in "[A-Z][A-Z0-9_]{0,10}", value in "[!-~]([ -~]{0,30}[!-~])?") {
        let settings = parse(Path::new("x"), &format!("{name}={value}\n")).unwrap();
        prop_assert_eq!(&settings[&name].value, &value);
    }

    #[test]
    fn no_value_makes_it_panic(value in ".*") {
        let setting = Setting { value, place: String::new() };
        drop((host("h", &setting), token("t", &setting), service_list("s", &setting)));
    }
}
