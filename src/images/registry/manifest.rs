//! What a registry says of an image: index, manifest, configuration. Pure, and nothing in it is believed unchecked.

use super::reference::is_digest;
use serde::Deserialize;
use serde_json::Value;

/// What is asked for: manifests and indexes, OCI's and Docker's.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
const INDEXES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Bytes of a manifest or an index. 4 MiB, as containerd and Docker's registry bound them.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of a configuration. 8 MiB.
pub const MAX_CONFIG: u64 = 8 << 20;

/// A piece of content: where it is told of, before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Document {
    /// The manifest of this machine's platform.
    Index(Descriptor),
    Manifest {
        config: Descriptor,
        /// The lowest first.
        layers: Vec<Descriptor>,
    },
}

/// What a configuration tells of the layers: the digests of their archives unpacked, the lowest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    pub diff_ids: Vec<String>,
}

impl Document {
    /// Reads what came as `content_type`, for the Linux machine of that architecture.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(content_type: &str, body: &[u8], architecture: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(body).map_err(|error| format!("its manifest is no JSON ({error})"))?;
        let told = content_type.split(';').next().unwrap_or_default().trim();
        let own = value["mediaType"].as_str().unwrap_or(told);
        let (is_index, is_manifest) = (INDEXES.contains(&own), MANIFESTS.contains(&own));
        // A text that is two things to two readers could pass for an image that was never looked at.
        if (is_index || is_manifest) && own != told && (INDEXES.contains(&told) || MANIFESTS.contains(&told)) {
            return Err(format!("its manifest says that it is {own:?} and came as {told:?}"));
        }
        if (is_index && value.get("layers").is_some()) || (is_manifest && value.get("manifests").is_some()) {
            return Err("its manifest is index and manifest in one".to_owned());
        }
        match (is_index, is_manifest) {
            (true, _) => Self::index(&value, architecture).map(Document::Index),
            (_, true) => Self::manifest(&value),
            _ => Err(format!("it is of media type {:?}, which is no container image", own.chars().take(200).collect::<String>())),
        }
    }

    fn index(value: &Value, architecture: &str) -> Result<Descriptor, String> {
        let all: Vec<Descriptor> = field(value, "manifests")?;
        let ours = |one: &&Descriptor| one.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture);
        // Variants beyond the first want a newer processor than this one may be.
        let plain = |one: &Descriptor| one.platform.as_ref().is_none_or(|p| matches!(p.variant.as_str(), "" | "v1" | "v8"));
        let found = all.iter().filter(ours).min_by_key(|one| !plain(one));
        let found = found.or_else(|| all.first().filter(|one| all.len() == 1 && one.platform.is_none())).cloned();
        found
            .ok_or_else(|| {
                let there: Vec<String> =
                    all.iter().filter_map(|one| one.platform.as_ref()).map(|p| format!("{}/{}", p.os, p.architecture)).take(20).collect();
                format!("it is not made for linux/{architecture}, only for {}", there.join(", "))
            })
            .and_then(checked)
    }

    fn manifest(value: &Value) -> Result<Self, String> {
        let config = checked(field(value, "config")?)?;
        if !CONFIGS.contains(&config.media_type.as_str()) {
            return Err(format!("its configuration is of media type {:?}: no container image", config.media_type));
        }
        let layers: Vec<Descriptor> = field(value, "layers")?;
        let layers = layers.into_iter().map(checked).collect::<Result<Vec<_>, _>>()?;
        match layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
            Some(odd) => Err(format!("its layer {} is of media type {:?}, which cannot be unpacked", odd.digest, odd.media_type)),
            None => Ok(Document::Manifest { config, layers }),
        }
    }
}

impl Config {
    /// # Errors
    /// What is wrong with it, or which machines it is for.
    pub fn read(body: &[u8], architecture: &str, layers: usize) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(body).map_err(|error| format!("its configuration is no JSON ({error})"))?;
        let (os, made_for) = (value["os"].as_str().unwrap_or("linux"), value["architecture"].as_str().unwrap_or(architecture));
        if os != "linux" || made_for != architecture {
            return Err(format!("it is made for {os}/{made_for}, and this machine is linux/{architecture}"));
        }
        let diff_ids: Vec<String> = field(&value["rootfs"], "diff_ids")?;
        if diff_ids.len() != layers {
            return Err(format!("its configuration tells of {} layers, its manifest of {layers}", diff_ids.len()));
        }
        match diff_ids.iter().find(|id| !is_digest(id)) {
            Some(id) => Err(format!("its layer {id:?} is not named by a sha256 digest")),
            None => Ok(Config { diff_ids }),
        }
    }
}

fn field<T: serde::de::DeserializeOwned>(value: &Value, name: &str) -> Result<T, String> {
    T::deserialize(&value[name]).map_err(|error| format!("{name:?} cannot be read ({error})"))
}

fn checked(descriptor: Descriptor) -> Result<Descriptor, String> {
    let shown: String = descriptor.digest.chars().take(200).collect();
    if is_digest(&descriptor.digest) { Ok(descriptor) } else { Err(format!("its digest {shown:?} is not sha256: and 64 digits")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn entry(n: u8, os: &str, architecture: &str, variant: &str) -> Value {
        json!({"digest": digest(n), "size": 1, "platform": {"os": os, "architecture": architecture, "variant": variant}})
    }

    fn read(content_type: &str, value: &Value) -> Result<Document, String> {
        Document::read(content_type, value.to_string().as_bytes(), "amd64")
    }

    #[test]
    fn an_index_leads_to_the_manifest_of_this_machine() {
        let index = json!({"manifests": [
            entry(1, "unknown", "unknown", ""), entry(2, "windows", "amd64", ""), entry(3, "linux", "arm64", "v8"), entry(4, "linux", "amd64", "v3"),
            entry(5, "linux", "amd64", ""),
        ]});
        for content_type in INDEXES {
            let Ok(Document::Index(found)) = read(content_type, &index) else { panic!() };
            assert_eq!(found.digest, digest(5));
        }
        let other = json!({"manifests": [entry(3, "linux", "arm64", "")]});
        let why = read(INDEXES[0], &other).unwrap_err();
        assert!(why.contains("linux/amd64") && why.contains("linux/arm64"), "{why}");
        let lone = json!({"manifests": [{"digest": digest(7), "size": 1}]});
        assert!(read(INDEXES[0], &lone).is_ok());
    }

    #[test]
    fn a_manifest_is_docker_s_or_oci_s_and_its_parts_are_too() {
        let manifest = |config: &str, layer: &str, name: &str| {
            json!({
                "mediaType": MANIFESTS[0],
                "config": {"mediaType": config, "digest": digest(1), "size": 2},
                "layers": [{"mediaType": layer, "digest": name, "size": 3}],
            })
        };
        let good = manifest(CONFIGS[0], LAYERS[2], &digest(2));
        assert!(matches!(read(MANIFESTS[0], &good), Ok(Document::Manifest { layers, .. }) if layers[0].size == 3));
        assert!(read("application/json; charset=utf-8", &good).is_ok());
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (content_type, bad, why) in [
            (MANIFESTS[1], good.clone(), "came as"),
            (INDEXES[0], good, "came as"),
            (MANIFESTS[0], manifest("application/vnd.cncf.helm.config.v1+json", LAYERS[0], &digest(2)), "no container image"),
            (MANIFESTS[0], manifest(CONFIGS[0], foreign, &digest(2)), "cannot be unpacked"),
            (MANIFESTS[0], manifest(CONFIGS[0], LAYERS[0], "sha256:../../etc"), "64 digits"),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", json!({"schemaVersion": 1}), "no container image"),
            (MANIFESTS[0], json!({"layers": [], "manifests": []}), "in one"),
            (MANIFESTS[0], json!({"layers": 7, "config": []}), "cannot be read"),
            (MANIFESTS[0], json!(7), "cannot be read"),
        ] {
            let told = read(content_type, &bad).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_configuration_is_for_this_machine_and_has_as_many_layers() {
        let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(1)]}}).to_string();
        assert_eq!(Config::read(config.as_bytes(), "amd64", 1).unwrap().diff_ids, [digest(1)]);
        assert!(Config::read(config.as_bytes(), "arm64", 1).unwrap_err().contains("linux/arm64"));
        assert!(Config::read(config.as_bytes(), "amd64", 2).unwrap_err().contains("1 layers"));
        assert!(Config::read(b"{\"rootfs\": {\"diff_ids\": [\"x\"]}}", "amd64", 1).unwrap_err().contains("sha256"));
        assert!(Config::read(b"{}", "amd64", 0).is_err());
    }
}
