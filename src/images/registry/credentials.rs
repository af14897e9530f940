//! Credentials as `docker login` leaves them: `auths` of Docker's config.json. They are in no log and no message.

use super::Settings;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Bytes of a configuration file. 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// By host, `Authorization` headers of kind Basic; marked sensitive, so that they do not show.
#[derive(Debug, Default)]
pub struct Credentials(HashMap<String, HeaderValue>);

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    /// `user:password` in base64, which is what a header wants.
    #[serde(default)]
    auth: String,
}

impl Credentials {
    /// Those of the file that the settings name, or of Docker's own; a missing one holds none.
    #[must_use]
    pub fn load(settings: &Settings) -> Self {
        let Some(path) = settings.auth_file.clone().or_else(docker_config) else { return Self::default() };
        if settings.auth_file.is_none() && !path.exists() {
            return Self::default();
        }
        Self::read(&path).unwrap_or_else(|why| {
            tracing::warn!("no credentials for registries are read from {}: {why}", path.display());
            Self::default()
        })
    }

    fn read(path: &Path) -> Result<Self, String> {
        let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
        if length > MAX_FILE {
            return Err(format!("it is over {MAX_FILE} bytes"));
        }
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        // Its own error could quote a secret.
        Self::parse(&text).ok_or_else(|| "it is not as Docker writes it".to_owned())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(text).ok()?;
        let headers = file.auths.into_iter().filter_map(|(key, Auth { auth })| {
            let mut header = HeaderValue::from_str(&format!("Basic {auth}")).ok().filter(|_| !auth.is_empty())?;
            header.set_sensitive(true);
            Some((host_of(&key).to_owned(), header))
        });
        Some(Credentials(headers.collect()))
    }

    /// For a registry, by its host and port.
    #[must_use]
    pub fn of(&self, host: &str) -> Option<&HeaderValue> {
        self.0.get(canonical(host))
    }
}

fn docker_config() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
    dir.map(|dir| dir.join("config.json"))
}

/// Keys are hosts, or addresses such as `https://index.docker.io/v1/`.
fn host_of(key: &str) -> &str {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    canonical(bare.split('/').next().unwrap_or(bare))
}

/// Docker's own registry has several.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_host_and_do_not_show() {
        let text = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHVudGVyOjI="}, "h:5000": {"auth": "eDp5"}, "helper.io": {}}, "credsStore": "x"}"#;
        let credentials = Credentials::parse(text).unwrap();
        for host in ["docker.io", "registry-1.docker.io"] {
            assert_eq!(credentials.of(host).unwrap().to_str().unwrap(), "Basic aHVudGVyOjI=");
        }
        assert!(credentials.of("h:5000").is_some() && credentials.of("h").is_none() && credentials.of("helper.io").is_none());
        assert!(!format!("{credentials:?}").contains("aHVu"), "{credentials:?}");
        assert!(Credentials::parse(b"{\"auths\": 7}").is_none());
        assert!(Credentials::parse(b"{}").is_some());
    }
}
