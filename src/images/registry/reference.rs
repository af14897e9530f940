//! Names of images, read as Docker reads them: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

use crate::images::digest;
use std::fmt;

/// Docker's own registry: what a name without a host means.
const HUB: &str = "docker.io";
/// The longest repository, host included, as Docker bounds it.
const LONGEST: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `docker.io`, or the host with its port as it was written.
    pub registry: String,
    /// Path within the registry, such as `library/debian`.
    pub repository: String,
    /// `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// `sha256:` and 64 digits; wins over the tag.
    pub digest: Option<String>,
}

impl Reference {
    /// # Errors
    /// What is wrong with the name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| Err(format!("{:?} is no image reference: {why}; write it as [REGISTRY/]NAME[:TAG][@DIGEST]", shortened(name)));
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return wrong("after the @ stands sha256: and 64 lower-case hexadecimal digits"),
            None => (name, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return wrong("a tag is at most 128 of A-Z a-z 0-9 _ . - and begins with none of the last two");
        }
        let (registry, path) = match rest.split_once('/') {
            Some((host, path)) if is_named_host(host) => (host, path),
            _ => (HUB, rest),
        };
        if !is_host(registry) {
            return wrong("its registry is no HOST[:PORT]");
        }
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        if path.len() == 64 && path.bytes().all(is_hex) {
            return wrong("64 hexadecimal digits are an id");
        }
        if path.split('/').any(|part| !is_part(part)) {
            return wrong("the parts of its path are lower-case letters and digits, parted by one of . _ __ or by dashes");
        }
        let repository = if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + repository.len() >= LONGEST {
            return wrong("it is too long");
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The repository as Docker shows it: without what a name means anyway.
    #[must_use]
    pub fn familiar(&self) -> String {
        match self.registry.as_str() {
            HUB => self.repository.strip_prefix("library/").filter(|name| !name.contains('/')).unwrap_or(&self.repository).to_owned(),
            host => format!("{host}/{}", self.repository),
        }
    }

    /// What a manifest is asked for by.
    #[must_use]
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Host and port of the registry's own address.
    #[must_use]
    pub fn host(&self) -> &str {
        if self.registry == HUB { "registry-1.docker.io" } else { &self.registry }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Whether it is `sha256:` and its 64 digits: nothing else is verified, so nothing else is taken, nor let into a path.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    digest::digits(text).is_some()
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether the first part of a path names a host.
fn is_named_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let name = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let ip =
        |host: &str| host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|ip| ip.parse::<core::net::Ipv6Addr>().is_ok());
    (host.split('.').all(name) || ip(host)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Words of letters and digits with separators between them.
fn is_part(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    part.bytes().next().is_some_and(alphanumeric)
        && part.bytes().last().is_some_and(alphanumeric)
        && separators.into_iter().all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn shortened(name: &str) -> String {
    name.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> String {
        Reference::parse(name).unwrap().to_string()
    }

    #[test]
    fn names_mean_what_they_mean_to_docker() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for (name, meant) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("sdist/click:8.1.3", "docker.io/sdist/click:8.1.3".to_owned()),
            ("index.docker.io/debian", "docker.io/library/debian:latest".to_owned()),
            ("docker.io/library/debian", "docker.io/library/debian:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/a/b-c__d.e:1", "localhost:5000/a/b-c__d.e:1".to_owned()),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest".to_owned()),
            ("Host/a", "Host/a:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            (&format!("a/b@{digest}"), format!("docker.io/a/b@{digest}")),
            (&format!("a/b:1@{digest}"), format!("docker.io/a/b:1@{digest}")),
        ] {
            assert_eq!(read(name), meant, "{name}");
        }
        assert_eq!(Reference::parse("debian").unwrap().familiar(), "debian");
        assert_eq!(Reference::parse("localhost:5000/a").unwrap().familiar(), "localhost:5000/a");
        assert_eq!(Reference::parse(&format!("a/b:1@{digest}")).unwrap().version(), digest);
        assert_eq!(Reference::parse("debian").unwrap().host(), "registry-1.docker.io");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let hex = "0123456789abcdef".repeat(4);
        let long = "a".repeat(300);
        for bad in [
            "",
            ":1",
            "a:",
            "a:-1",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a/../b",
            "a___b",
            "a..b",
            "-a",
            "a b",
            "a?x=1",
            "a%2e",
            "host:x/a",
            "a@sha256:00ff",
            "a@sha512:00",
            "-h.com/a",
            "h..com/a",
            "host.com/",
            &hex,
            &long,
            "h.com:70000/a",
            "[::1/a",
            "user:pass@h.com/a",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert!(!is_digest(&format!("sha256:{}", hex.to_uppercase())));
    }
}
