//! Names of buckets: a template of the operator's, filled in with the tenant.
//!
//! Promises: two tenants that differ in a variable of the template never get the same name. Where the plain text would
//! be ambiguous (`a_b` and `c` against `a` and `b_c`) a digest of the values is added; without such names it reads as
//! Go Nex writes it.

use sha2::{Digest, Sha256};

use crate::Tenant;

/// Longest name of a bucket, so that the stream's name stays one the server takes.
const LONGEST: usize = 200;

/// A template that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// Two variables with no `_` between them.
    adjacent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Namespace,
    WorkloadName,
}

impl Template {
    /// Checks a template.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((variable, after)) = after.split_once('}') else {
                return Err(format!("'{text}' has a ${{ without a }}"));
            };
            literal(text, before, &mut parts)?;
            parts.push(match variable.to_ascii_lowercase().as_str() {
                "namespace" => Part::Namespace,
                "workload_name" => Part::WorkloadName,
                _ => return Err(format!("'{text}' has the variable '{variable}': known are namespace, workload_name")),
            });
            rest = after;
        }
        literal(text, rest, &mut parts)?;
        if parts.is_empty() {
            return Err("is empty".to_owned());
        }
        let mut adjacent = false;
        let mut open = false;
        for part in &parts {
            match part {
                Part::Text(literal) => open &= !literal.contains('_'),
                Part::Namespace | Part::WorkloadName => {
                    adjacent |= open;
                    open = true;
                }
            }
        }
        Ok(Self { parts, adjacent })
    }

    /// The tenant's bucket.
    pub fn bucket(&self, tenant: &Tenant) -> String {
        let mut digest = Sha256::new();
        let mut ambiguous = self.adjacent;
        let mut name = String::new();
        for part in &self.parts {
            let value = match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                Part::Namespace => tenant.namespace.as_str(),
                Part::WorkloadName => tenant.workload.as_str(),
            };
            digest.update(value);
            digest.update([0]);
            // `_` is what separates; a value with one is told apart by the digest.
            ambiguous |= value.contains('_');
            name.extend(value.chars().map(|c| if c == '_' { '-' } else { c }));
        }
        if ambiguous || name.len() > LONGEST {
            let digest = hex::encode(digest.finalize());
            name.truncate(LONGEST);
            name.push('_');
            name.push_str(digest.get(..32).unwrap_or(&digest));
        }
        name
    }
}

fn literal(template: &str, text: &str, parts: &mut Vec<Part>) -> Result<(), String> {
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '_' && *c != '-') {
        return Err(format!("'{template}' has a {bad:?}: a bucket's name has letters, digits, - and _"));
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tenant(namespace: &str, workload: &str) -> Tenant {
        Tenant { namespace: namespace.parse().unwrap(), workload: workload.parse().unwrap() }
    }

    #[test]
    fn a_plain_name_reads_as_go_nex_writes_it() {
        let template = Template::parse("hs_${NameSpace}_${workload_NAME}_kv").unwrap();
        assert_eq!(template.bucket(&tenant("default", "echo-1")), "hs_default_echo-1_kv");
    }

    #[test]
    fn no_two_tenants_share_a_bucket() {
        let names = ["a", "b", "a-b", "a_b", "_", "-", "b_", "_b", "a_b_c", "b_c", "a_", "c", "kv", "a_c_kv", "__"];
        for text in
            ["hs_${namespace}_${workload_name}_kv", "${namespace}${workload_name}", "${namespace}-${workload_name}"]
        {
            let template = Template::parse(text).unwrap();
            let mut seen = HashSet::new();
            for namespace in names {
                for workload in names {
                    let bucket = template.bucket(&tenant(namespace, workload));
                    assert!(bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{bucket}");
                    assert!(seen.insert(bucket.clone()), "{text}: {namespace} {workload} {bucket}");
                }
            }
            let plain = template.bucket(&tenant("a", "b_c"));
            if let Some((_, tail)) = plain.split_once("_kv_") {
                assert!(seen.insert(template.bucket(&tenant("a", &format!("b-c_kv_{tail}")))), "forged digest");
            }
        }
        let long = "n".repeat(128);
        let template = Template::parse("hs_${namespace}_${workload_name}_kv").unwrap();
        let bucket = template.bucket(&tenant(&long, &long));
        assert!(bucket.len() <= 240);
        assert_ne!(bucket, template.bucket(&tenant(&long, &format!("{}m", &long[..127]))));
    }

    #[test]
    fn templates_that_cannot_be_meant_are_refused() {
        for bad in ["", "hs.${namespace}", "${tenant}", "${namespace", "a b", "$namespace", "*", "é"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
