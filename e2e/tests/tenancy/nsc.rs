//! What `nsc` would have made: the JWTs of `docs/security/operator.sh`, which is run with a program in the place of
//! `nsc` that only notes how it was called.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nex_identity::{Claims, Credentials, Issuer};
use nex_testkit::workspace_root;
use nkeys::KeyPair;
use serde_json::{Map, Value, json};

/// When everything was signed; long ago, and nothing expires.
const SIGNED: i64 = 1_700_000_000;

/// Notes its arguments, a call a line; where the script reads what nsc says, says the name in place of the key.
const NSC: &str = r#"#!/bin/sh
call=$(printf '%s\037' "$@")
printf '%s\n' "$call" >> "$NSC_CALLS"
case "$1 $2" in
  "describe account") printf '"%s"\n' "$3" ;;
  "generate activation") while [ "$1" != --output-file ]; do shift; done; printf '%s' "$call" > "$2" ;;
esac
"#;

/// A call of nsc: its words, and its flags.
#[derive(Debug)]
struct Call {
    words: Vec<String>,
    flags: BTreeMap<String, Vec<String>>,
}

impl Call {
    fn parse(line: &str) -> Self {
        let mut call = Call { words: vec![], flags: BTreeMap::new() };
        let mut parts = line.trim_end_matches('\u{1f}').split('\u{1f}').peekable();
        while let Some(part) = parts.next() {
            let Some(flag) = part.strip_prefix("--") else {
                call.words.push(part.to_owned());
                continue;
            };
            let values = call.flags.entry(flag.to_owned()).or_default();
            values.extend(parts.next_if(|next| !next.starts_with("--")).map(str::to_owned));
        }
        call
    }

    fn is(&self, words: &str) -> bool {
        self.words.join(" ").starts_with(words)
    }

    fn flag(&self, name: &str) -> Result<&str> {
        let value = self.flags.get(name).and_then(|values| values.first());
        value.map(String::as_str).with_context(|| format!("{name} is missing in {self:?}"))
    }

    /// A list: comma separated, and the flag may be repeated.
    fn list(&self, name: &str) -> Vec<&str> {
        self.flags.get(name).into_iter().flatten().flat_map(|value| value.split(',')).collect()
    }
}

/// An account as the script makes it.
#[derive(Debug)]
struct Account {
    key: Issuer,
    data: Map<String, Value>,
}

/// Everything the script makes.
#[derive(Debug)]
pub(crate) struct Made {
    operator: KeyPair,
    accounts: BTreeMap<String, Account>,
    /// Credentials by the user's name.
    pub(crate) users: BTreeMap<String, Credentials>,
}

impl Made {
    /// Runs the script.
    pub(crate) fn by_script() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (nsc, calls) = (folder.path().join("nsc"), folder.path().join("calls"));
        std::fs::write(&nsc, NSC)?;
        std::fs::set_permissions(&nsc, std::fs::Permissions::from_mode(0o755))?;
        let path = std::env::var("PATH")?;
        let output = Command::new("sh")
            .arg(workspace_root().join("docs/security/operator.sh"))
            .current_dir(folder.path())
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("NSC_CALLS", &calls)
            .output()?;
        ensure!(output.status.success(), "operator.sh: {}", String::from_utf8_lossy(&output.stderr));
        let mut made = Made { operator: KeyPair::new_operator(), accounts: BTreeMap::new(), users: BTreeMap::new() };
        for line in std::fs::read_to_string(&calls)?.lines() {
            made.carry_out(&Call::parse(line), folder.path())?;
        }
        Ok(made)
    }

    fn carry_out(&mut self, call: &Call, folder: &Path) -> Result<()> {
        match call {
            call if call.is("add operator") => {
                ensure!(call.flags.contains_key("sys"), "the server needs an account of its own");
                self.add_account("SYS");
            }
            call if call.is("add account") => self.add_account(call.flag("name")?),
            call if call.is("edit account") => {
                let limits = [
                    ("js-mem-storage", "mem_storage"),
                    ("js-disk-storage", "disk_storage"),
                    ("js-streams", "streams"),
                    ("js-consumer", "consumer"),
                ];
                for (flag, limit) in limits {
                    let value: i64 = call.flag(flag)?.parse()?;
                    self.account(call.flag("name")?)?.data["limits"][limit] = value.into();
                }
            }
            call if call.is("add mapping") => {
                let (from, to) = (call.flag("from")?.to_owned(), call.flag("to")?);
                self.account(call.flag("account")?)?.data["mappings"][from] = json!([{"subject": to}]);
            }
            call if call.is("add export") => {
                let mut export = json!({"name": call.flag("name")?, "subject": call.flag("subject")?,
                                        "type": kind(call), "token_req": call.flags.contains_key("private")});
                if kind(call) == "service" {
                    export["response_type"] = call.flag("response-type")?.into();
                }
                list(self.account(call.flag("account")?)?, "exports").push(export);
            }
            call if call.is("add import") => {
                let activation = Call::parse(&std::fs::read_to_string(folder.join(call.flag("token")?))?);
                let import = self.import(&activation, call)?;
                list(self.account(call.flag("account")?)?, "imports").push(import);
            }
            call if call.is("add user") => {
                let credentials = self.user(call)?;
                self.users.insert(call.flag("name")?.to_owned(), credentials);
            }
            // Where the script asks, and what it writes for people.
            call if call.is("describe account") || call.is("generate") => {}
            other => bail!("operator.sh calls nsc in a way that is not known here: {other:?}"),
        }
        Ok(())
    }

    fn add_account(&mut self, name: &str) {
        let limits = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"];
        let mut limits: Map<String, Value> = limits.into_iter().map(|limit| (limit.to_owned(), json!(-1))).collect();
        limits.insert("wildcards".to_owned(), true.into());
        let data = json!({"type": "account", "limits": limits, "mappings": {}, "exports": [], "imports": []});
        let data = data.as_object().cloned().unwrap_or_default();
        self.accounts.insert(name.to_owned(), Account { key: Issuer::generate(), data });
    }

    fn account(&mut self, name: &str) -> Result<&mut Account> {
        self.accounts.get_mut(name).with_context(|| format!("there is no account {name}"))
    }

    /// An import with the activation that the exporting account has signed for it.
    fn import(&self, activation: &Call, import: &Call) -> Result<Value> {
        let exporter = &self.accounts[activation.flag("account")?];
        let importer = &self.accounts[activation.flag("target-account")?];
        let subject = activation.flag("subject")?;
        let exports = exporter.data["exports"].as_array().cloned().unwrap_or_default();
        let export = exports.iter().find(|export| export["subject"] == subject).context("nothing is exported there")?;
        let data = json!({"type": "activation", "subject": subject, "kind": export["type"]});
        let claims = claims(&importer.key.public_key(), import.flag("name")?, data);
        Ok(json!({
            "name": import.flag("name")?,
            "subject": subject,
            "local_subject": import.flag("local-subject")?,
            "account": exporter.key.public_key(),
            "token": claims.sign(&exporter.key, SIGNED)?,
            "type": export["type"],
        }))
    }

    fn user(&self, call: &Call) -> Result<Credentials> {
        let key = KeyPair::new_user();
        let allowed = |flag: &str| match call.list(flag) {
            none if none.is_empty() => json!({}),
            some => json!({ "allow": some }),
        };
        let data = json!({"type": "user", "subs": -1, "data": -1, "payload": -1,
                          "pub": allowed("allow-pub"), "sub": allowed("allow-sub")});
        let claims = claims(&key.public_key(), call.flag("name")?, data);
        let jwt = claims.sign(&self.accounts[call.flag("account")?].key, SIGNED)?;
        Ok(Credentials { jwt, seed: key.seed()?.into() })
    }

    /// A user of an account that imports what was not given to it: with no activation, or with one for something else.
    pub(crate) fn add_thief(&mut self, account: &str, subject: &str, with_another: bool) -> Result<Credentials> {
        self.add_account(account);
        let exporter = self.accounts["NEX"].key.public_key();
        let another = self.accounts["SHOP"].data["imports"][0]["token"].clone();
        let mut import = json!({"name": "x", "subject": subject, "account": exporter, "type": "service"});
        if with_another {
            import["token"] = another;
        }
        list(self.account(account)?, "imports").push(import);
        self.user(&Call::parse(&format!("add\u{1f}user\u{1f}--account\u{1f}{account}\u{1f}--name\u{1f}thief")))
    }

    /// `operator.conf`, filled in.
    pub(crate) fn fill_in(&self, template: &str) -> Result<String> {
        let operator = claims(&self.operator.public_key(), "nex", json!({"type": "operator"}));
        let mut text = template.replace("<operator.jwt>", &operator.sign_by(&self.operator, SIGNED)?);
        let mut others = String::new();
        for (name, account) in &self.accounts {
            let key = account.key.public_key();
            let jwt = claims(&key, name, account.data.clone().into()).sign_by(&self.operator, SIGNED)?;
            if template.contains(&format!("<{name}>")) {
                text = text.replace(&format!("<{name}.jwt>"), &jwt).replace(&format!("<{name}>"), &key);
            } else {
                others.push_str(&format!("{key}: {jwt}\n"));
            }
        }
        Ok(text.replacen("resolver_preload: {\n", &format!("resolver_preload: {{\n{others}"), 1))
    }
}

fn kind(export: &Call) -> &'static str {
    if export.flags.contains_key("service") { "service" } else { "stream" }
}

fn list<'a>(account: &'a mut Account, name: &str) -> &'a mut Vec<Value> {
    account.data.get_mut(name).and_then(Value::as_array_mut).unwrap()
}

fn claims(subject: &str, name: &str, data: Value) -> Claims {
    let nats = data.as_object().cloned().unwrap_or_default();
    Claims { sub: subject.to_owned(), name: name.to_owned(), nats, ..Claims::default() }
}
