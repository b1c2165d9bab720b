//! The description of the network of microVMs, for network plugins.

use serde_json::{Map, Value, json};

use crate::Cni;

/// What `<network>.conflist` has to say: a link to the host with masquerade, addresses from the subnet, and a tap for
/// the machine.
pub fn conflist(cni: &Cni) -> String {
    let mut ptp = Map::from_iter([
        ("type".to_owned(), json!("ptp")),
        ("ipMasq".to_owned(), json!(true)),
        ("ipam".to_owned(), json!({ "type": "host-local", "subnet": cni.subnet, "resolvConf": "/etc/resolv.conf" })),
    ]);
    if !cni.nameservers.is_empty() {
        ptp.insert("dns".to_owned(), json!({ "nameservers": cni.nameservers }));
    }
    let list: Value = json!({
        "name": cni.network_name,
        "cniVersion": "0.4.0",
        "plugins": [ptp, { "type": "tc-redirect-tap" }]
    });
    format!("{list:#}\n")
}

/// What keeps a text from being a description of this network.
pub(crate) fn fault(text: &str, cni: &Cni) -> Option<String> {
    let list: Value = match serde_json::from_str(text) {
        Ok(list) => list,
        Err(error) => return Some(format!("is not valid JSON: {error}")),
    };
    let name = list.get("name").and_then(Value::as_str);
    if name != Some(&cni.network_name) {
        return Some(format!("describes the network '{}'", name.unwrap_or_default()));
    }
    let plugins = list.get("plugins").and_then(Value::as_array)?;
    let has = |plugin: &str| plugins.iter().any(|one| one.get("type").and_then(Value::as_str) == Some(plugin));
    (!has("tc-redirect-tap")).then(|| "has no tc-redirect-tap, which makes the machine's device".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_description_of_the_network() {
        let mut cni = Cni {
            search: Vec::new(),
            install_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/conf.d".into(),
            network_name: "fcnet".to_owned(),
            subnet: "10.10.10.0/24".to_owned(),
            nameservers: Vec::new(),
        };
        let text = conflist(&cni);
        assert_eq!(fault(&text, &cni), None);
        assert!(text.contains("10.10.10.0/24") && !text.contains("nameservers"), "{text}");
        cni.nameservers.push("1.1.1.1".to_owned());
        assert!(conflist(&cni).contains("1.1.1.1"));
        assert!(fault("{", &cni).unwrap().contains("JSON"));
        assert!(fault(r#"{"name":"other","plugins":[]}"#, &cni).unwrap().contains("other"));
        assert!(fault(r#"{"name":"fcnet","plugins":[{"type":"ptp"}]}"#, &cni).unwrap().contains("tc-redirect-tap"));
    }
}
