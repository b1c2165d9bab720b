//! A network configuration list: which plugins make a network, in which order, with which settings.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::NetworkError;

/// Versions of the specification that are spoken. In both a result has the same shape.
const VERSIONS: [&str; 2] = ["0.4.0", "1.0.0"];

/// The plugin whose link on the host belongs to one slot alone.
const FIRST: &str = "ptp";

/// The plugin that makes the tap.
const TAP: &str = "tc-redirect-tap";

/// A list that can be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Conflist {
    name: String,
    #[serde(rename = "cniVersion")]
    version: String,
    plugins: Vec<Plugin>,
}

/// One plugin's settings. They are the plugin's own; only its type is read here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plugin {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    settings: Map<String, Value>,
}

impl Conflist {
    /// The first list of this name in the folder, by the names of files.
    ///
    /// # Errors
    /// When there is none, or it is not of a kind that microVMs can have.
    pub(super) fn find(folder: &Path, name: &str) -> Result<Self, NetworkError> {
        let refused = |why: String| NetworkError::Conflist { name: name.to_owned(), why };
        let entries = fs::read_dir(folder).map_err(|error| refused(format!("{}: {error}", folder.display())))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        paths.sort();
        let mut unread = String::new();
        for path in paths {
            let read = || {
                let json: Value = serde_json::from_slice(&fs::read(&path)?)?;
                if json.get("name").and_then(Value::as_str) != Some(name) {
                    return Ok(None);
                }
                Ok::<_, std::io::Error>(Some(serde_json::from_value::<Self>(json)?))
            };
            match read() {
                Ok(Some(list)) => {
                    list.check().map_err(|why| refused(format!("{}: {why}", path.display())))?;
                    return Ok(list);
                }
                Ok(None) => {}
                // It may be another network's.
                Err(error) => unread = format!(" ({} cannot be read: {error})", path.display()),
            }
        }
        let folder = folder.display();
        Err(refused(format!(
            "no *.conflist in {folder} has this name{unread}: write one, or set \"network\": \"builtin\""
        )))
    }

    fn check(&self) -> Result<(), String> {
        if !VERSIONS.contains(&self.version.as_str()) {
            return Err(format!("its cniVersion is {}, and {} are understood", self.version, VERSIONS.join(" and ")));
        }
        if let Some(bad) = self.programs().find(|kind| kind.is_empty() || kind.contains('/') || kind.starts_with('.')) {
            return Err(format!("'{bad}' is no name of a plugin"));
        }
        if self.plugins.first().is_none_or(|plugin| plugin.kind != FIRST) {
            return Err(format!("its first plugin must be {FIRST}: guests on a shared link cannot be kept apart"));
        }
        if !self.plugins.iter().any(|plugin| plugin.kind == TAP) {
            return Err(format!(
                "it has no plugin {TAP}, which makes the device of the microVM: add it as the last one"
            ));
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn plugins(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        self.plugins.iter()
    }

    /// The programs that the list takes: plugins, and those that manage addresses for them.
    pub(super) fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().flat_map(|plugin| [Some(plugin.kind()), plugin.addresses()]).flatten()
    }
}

impl Plugin {
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    fn addresses(&self) -> Option<&str> {
        self.settings.get("ipam")?.get("type")?.as_str()
    }

    /// What the plugin reads: its settings, the network's name and version, and what the plugins before it said.
    pub(super) fn configuration(&self, list: &Conflist, previous: Option<&Value>) -> Value {
        let mut settings = self.settings.clone();
        settings.insert("type".into(), self.kind.clone().into());
        settings.insert("name".into(), list.name.clone().into());
        settings.insert("cniVersion".into(), list.version.clone().into());
        if let Some(previous) = previous {
            settings.insert("prevResult".into(), previous.clone());
        }
        Value::Object(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Conflist, NetworkError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("10-other.conflist"), r#"{"name":"other"}"#).unwrap();
        fs::write(folder.path().join("11-broken.conflist"), "{").unwrap();
        fs::write(folder.path().join("20-ours.conflist"), text).unwrap();
        fs::write(folder.path().join("30-ours.conf"), "not a list").unwrap();
        Conflist::find(folder.path(), "fcnet")
    }

    #[test]
    fn the_list_of_the_name_is_found() {
        let list = found(
            r#"{"name":"fcnet","cniVersion":"0.4.0","plugins":[
                {"type":"ptp","ipMasq":true,"ipam":{"type":"host-local"}},{"type":"tc-redirect-tap"}]}"#,
        )
        .unwrap();
        assert_eq!(list.programs().collect::<Vec<_>>(), ["ptp", "host-local", "tc-redirect-tap"]);
        let plugin = list.plugins().next().unwrap();
        let config = plugin.configuration(&list, Some(&Value::from(1)));
        assert_eq!(
            config.to_string(),
            r#"{"cniVersion":"0.4.0","ipMasq":true,"ipam":{"type":"host-local"},"name":"fcnet","prevResult":1,"type":"ptp"}"#
        );
    }

    #[test]
    fn a_list_that_is_no_use_is_refused_with_a_reason() {
        for (text, why) in [
            (r#"{"name":"x"}"#, "has this name"),
            (r#"{"name":"fcnet","cniVersion":"0.2.0","plugins":[]}"#, "0.4.0 and 1.0.0"),
            (r#"{"name":"fcnet","cniVersion":"1.0.0","plugins":[]}"#, "must be ptp"),
            (r#"{"name":"fcnet","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#, "must be ptp"),
            (r#"{"name":"fcnet","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}"#, "no plugin tc-redirect-tap"),
            (r#"{"name":"fcnet","cniVersion":"1.0.0","plugins":[{"type":"../ptp"}]}"#, "no name of a plugin"),
            (r#"{"name":"fcnet","cniVersion":"1.0.0","plugins":3}"#, "cannot be read"),
        ] {
            let error = found(text).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
