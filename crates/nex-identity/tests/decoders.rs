//! Claims and sealed boxes, by the checks of the fuzz targets (`fuzz/src`): any bytes, the kept corpora and damaged
//! copies of them; and claims and environments of any content, which come back as they were signed and sealed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it
#![allow(unreachable_pub, reason = "modules of another package")]

#[path = "../../../fuzz/src/claims.rs"]
mod claims;
#[path = "../../../fuzz/src/damaged.rs"]
mod damaged;
#[path = "../../../fuzz/src/sealed.rs"]
mod sealed;

use std::collections::BTreeMap;

use damaged::{damaged, seeds};
use nex_identity::{Claims, Issuer, XKeyPair};
use nex_protocol::Environment;
use proptest::prelude::*;

#[test]
fn the_kept_corpora_pass() {
    for (target, check) in [("claims", claims::check as fn(&[u8])), ("sealed", sealed::check)] {
        seeds(target).iter().for_each(|seed| check(seed));
    }
}

proptest! {
    // Each case makes and verifies signatures, or opens boxes.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_bytes_are_a_claim_or_an_error(bytes: Vec<u8>) {
        claims::check(&bytes);
    }

    #[test]
    fn a_damaged_claim_is_refused_or_is_one_that_was_signed(bytes in damaged("claims")) {
        claims::check(&bytes);
    }

    #[test]
    fn claims_of_any_content_come_back_as_they_were_signed(
        texts: [String; 4], data: BTreeMap<String, Option<String>>, now in 1..i64::MAX,
    ) {
        let issuer = Issuer::generate();
        let [aud, name, sub, hash] = texts;
        let mut signed = Claims { aud, name, sub, ..Claims::default() };
        signed.nats.extend(data.into_iter().map(|(name, value)| (name, value.into())));
        signed.nats.insert("hash".to_owned(), hash.into());
        let token = signed.clone().sign(&issuer, now).unwrap();
        let read = Claims::verify(&token, now).unwrap();
        prop_assert_eq!((&read.iss, read.iat), (&issuer.public_key(), now));
        prop_assert_eq!((read.aud, read.name, read.sub), (signed.aud, signed.name, signed.sub));
        signed.nats.insert("version".to_owned(), 2.into());
        prop_assert_eq!(read.nats, signed.nats);
    }

    #[test]
    fn any_bytes_are_a_box_or_an_error(bytes: Vec<u8>) {
        sealed::check(&bytes);
    }

    #[test]
    fn a_damaged_box_is_an_error(bytes in damaged("sealed")) {
        sealed::check(&bytes);
    }

    #[test]
    fn an_environment_of_any_content_comes_back_as_it_was_sealed(variables: BTreeMap<String, String>) {
        let (sender, node) = (XKeyPair::generate(), XKeyPair::generate());
        let environment: Environment = variables.into_iter().collect();
        let sealed = sender.seal(&environment, &node.public_key()).unwrap();
        prop_assert_eq!(node.open(&sealed, &sender.public_key()).unwrap(), environment);
    }
}
