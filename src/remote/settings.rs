//! Which cluster, and who we are: `settings.conf` and the environment (arv-mount.md 1.4, protocol.md 0).
//!
//! The first `settings.conf` that exists is read, and every `ARVADOS_…` variable of the environment wins over it, an empty
//! one by taking the setting away. Both come in through [`Environment`], so that tests need not touch the process. Values may contain `=` (the Python client
//! stops at such a line); everything that is wrong is said with file and line.

use crate::remote::error::{Error, Result};
use crate::remote::token::Token;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use url::Url;

/// Name of the settings file.
const FILE: &str = "settings.conf";

/// What the process was given: environment variables by name.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, OsString>);

impl Environment {
    /// The environment of this process. Variables whose name is not UTF-8 cannot be any of ours.
    pub fn of_process() -> Environment {
        Environment(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// The value as text; empty and not UTF-8 count as not set.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str()).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Environment {
        Environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The settings of a client of one cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host` or `host:port`; always reached by https.
    pub api_host: String,
    /// Who we are.
    pub token: Token,
    /// Take any certificate (`ARVADOS_API_HOST_INSECURE`), of API, Keep and websocket alike.
    pub insecure: bool,
    /// Keep services to use instead of the cluster's list (`ARVADOS_KEEP_SERVICES`, else `ARVADOS_KEEP_PROXY`).
    pub keep_services: Vec<Url>,
    /// Ask for log records instead of opening a websocket (`ARVADOS_DISABLE_WEBSOCKETS`).
    pub disable_websockets: bool,
    /// Log at level debug (`ARVADOS_DEBUG`).
    pub debug: bool,
    /// `SSL_CERT_FILE`: certificate authorities to trust, before the usual places.
    pub certificate_file: Option<PathBuf>,
    /// The settings file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// A value with the place it came from, for messages.
struct Setting {
    value: String,
    place: String,
}

impl Settings {
    /// Settings for `api_host` with nothing else out of the ordinary.
    pub fn new(api_host: &str, token: Token) -> Settings {
        Settings {
            api_host: api_host.to_owned(),
            token,
            insecure: false,
            keep_services: Vec::new(),
            disable_websockets: false,
            debug: false,
            certificate_file: None,
            file: None,
        }
    }

    /// Reads the settings of this process. Errors: an unreadable or malformed file, host or token missing or malformed.
    pub fn load() -> Result<Settings> {
        Settings::from_environment(&Environment::of_process())
    }

    /// Reads the settings that `environment` gives and points to.
    pub fn from_environment(environment: &Environment) -> Result<Settings> {
        let places = search_path(environment);
        let file = places.iter().find(|path| path.is_file()).cloned();
        let mut settings = match &file {
            Some(file) => read(file)?,
            None => BTreeMap::new(),
        };
        if file.is_none() {
            warn_of_overlooked_file(environment);
        }
        for name in environment.0.keys().filter(|name| name.starts_with("ARVADOS_")) {
            let value = environment.0[name].to_str().ok_or_else(|| Error::SettingInvalid {
                name: name.clone(),
                place: "environment".to_owned(),
                problem: "not UTF-8".to_owned(),
            })?;
            settings.insert(name.clone(), Setting { value: value.to_owned(), place: "environment".to_owned() });
        }
        settings.retain(|_, setting| !setting.value.is_empty());
        // The user's own place, whatever else is searched: that one can be written to.
        let own = user_folder(environment).map(|folder| folder.join("arvados").join(FILE));
        let searched = file.clone().or(own).or_else(|| places.last().cloned());
        let searched = searched.map_or_else(|| FILE.to_owned(), |path| path.display().to_string());
        let required = |name: &'static str| {
            settings.get(name).ok_or_else(|| Error::SettingMissing { name, searched: searched.clone() })
        };
        let flag = |name: &str| settings.get(name).is_some_and(|setting| is_true(&setting.value));
        let services = settings.get_key_value("ARVADOS_KEEP_SERVICES");
        let services = services.or_else(|| settings.get_key_value("ARVADOS_KEEP_PROXY"));
        Ok(Settings {
            api_host: host("ARVADOS_API_HOST", required("ARVADOS_API_HOST")?)?,
            token: token("ARVADOS_API_TOKEN", required("ARVADOS_API_TOKEN")?)?,
            insecure: flag("ARVADOS_API_HOST_INSECURE"),
            keep_services: services.map(|(name, setting)| service_list(name, setting)).transpose()?.unwrap_or_default(),
            disable_websockets: flag("ARVADOS_DISABLE_WEBSOCKETS"),
            debug: settings.contains_key("ARVADOS_DEBUG"),
            certificate_file: environment.path("SSL_CERT_FILE"),
            file,
        })
    }
}

/// The user's own folder of settings. Relative directories do not count (XDG base directories).
fn user_folder(environment: &Environment) -> Option<PathBuf> {
    let absolute = |name| environment.path(name).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

/// Where `settings.conf` may be, in the order of precedence.
fn search_path(environment: &Environment) -> Vec<PathBuf> {
    let user = user_folder(environment);
    let system = environment.text("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg");
    let service = environment.text("CONFIGURATION_DIRECTORY").unwrap_or_default();
    let service = service.split(':').map(PathBuf::from);
    let rest = user.into_iter().chain(system.split(':').map(PathBuf::from)).map(|path| path.join("arvados"));
    service.chain(rest).filter(|path| path.is_absolute()).map(|path| path.join(FILE)).collect()
}

/// A file in `~/.config` that `XDG_CONFIG_HOME` hides is worth a word: it is what most people have.
fn warn_of_overlooked_file(environment: &Environment) {
    let Some(usual) = environment.path("HOME").map(|home| home.join(".config/arvados").join(FILE)) else { return };
    if usual.is_file() {
        tracing::warn!(
            file = %usual.display(),
            "settings file not used, because XDG_CONFIG_HOME names another place: add its directory to XDG_CONFIG_DIRS"
        );
    }
}

fn read(file: &Path) -> Result<BTreeMap<String, Setting>> {
    let unreadable = |problem: String| Error::Unreadable { file: file.to_owned(), problem };
    let bytes = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| unreadable(format!("not UTF-8 ({error})")))?;
    parse(file, &text)
}

/// `NAME=value` lines; blank lines and those that start with `#` are skipped, trailing blanks are not part of a value.
fn parse(file: &Path, text: &str) -> Result<BTreeMap<String, Setting>> {
    let mut settings = BTreeMap::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let wrong = |problem: &str| Error::SettingsLine { file: file.to_owned(), line, problem: problem.to_owned() };
        let (name, value) = content.split_once('=').ok_or_else(|| wrong("expected NAME=value"))?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(wrong("expected NAME=value, with a name of letters, digits and underscores"));
        }
        let place = format!("{}:{line}", file.display());
        settings.insert(name.to_owned(), Setting { value: value.to_owned(), place });
    }
    Ok(settings)
}

/// The truth values of the Python client: 1, t, true, y, yes, in any case.
pub fn is_true(value: &str) -> bool {
    ["1", "t", "true", "y", "yes"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

fn invalid(name: &str, setting: &Setting, problem: impl Into<String>) -> Error {
    Error::SettingInvalid { name: name.to_owned(), place: setting.place.clone(), problem: problem.into() }
}

fn host(name: &str, setting: &Setting) -> Result<String> {
    let value = setting.value.trim();
    let problem = "must be host or host:port, without https:// and path";
    let url = Url::parse(&format!("https://{value}/")).map_err(|_| invalid(name, setting, problem))?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if value.is_empty() || value.contains('/') || !plain || url.password().is_some() {
        return Err(invalid(name, setting, problem));
    }
    Ok(value.to_owned())
}

fn token(name: &str, setting: &Setting) -> Result<Token> {
    let problem = "empty, or with characters that a token cannot have (its value is not shown here)";
    Token::new(&setting.value).ok_or_else(|| invalid(name, setting, problem))
}

fn service_list(name: &str, setting: &Setting) -> Result<Vec<Url>> {
    let parse = |word: &str| {
        let wrong = |problem: String| invalid(name, setting, format!("{word}: {problem}"));
        let mut url = Url::parse(word).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("expected http://host:port/ or https://host:port/".to_owned()));
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(url)
    };
    setting.value.split_whitespace().map(parse).collect()
}

#[cfg(test)]
mod tests;
