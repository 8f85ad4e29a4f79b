//! One signature of an image, in sigstore's simple form: what it claims, and whether a key made it. Pure.
//!
//! ```text
//! payload    { "critical": { "type": "cosign container image signature",
//!                            "image": { "docker-manifest-digest": DIGEST },
//!                            "identity": { "docker-reference": NAME } },
//!              "optional": … }
//! signature  base64, over the payload's bytes: ECDSA with SHA-256, or Ed25519
//! ```
//!
//! Sources: cosign, "Signature specification"; containers/image, signature/sigstore.

use base64::Engine as _;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;

/// Most bytes of a payload that are read.
pub const MAX_PAYLOAD: u64 = 4 << 20;
/// What containers/image calls the signature in an annotation.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The media type of a payload.
pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// What was found, and is not believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What was signed.
    pub payload: Vec<u8>,
    /// Base64.
    pub signature: String,
}

/// What a good signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Digest of the manifest.
    pub manifest: String,
    /// The image's name.
    pub reference: String,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    kind: KeyKind,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    P256,
    P384,
    Ed25519,
}

/// How the keys that are known begin in DER: everything but the key itself is the same in all of a kind. Source: RFC 5480
/// and RFC 8410.
const KINDS: [(KeyKind, &[u8], usize); 3] = [
    (
        KeyKind::P256,
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
        65,
    ),
    (
        KeyKind::P384,
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        97,
    ),
    (
        KeyKind::Ed25519,
        b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
        32,
    ),
];

impl Key {
    /// Reads a PEM file, `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind its name.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is no text".to_owned())?;
        let body = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .map(|(body, _)| body.split_ascii_whitespace().collect::<String>())
            .ok_or("is no public key in PEM, `-----BEGIN PUBLIC KEY-----`")?;
        let der = base64::prelude::BASE64_STANDARD
            .decode(body)
            .map_err(|_| "is damaged: it is no base64".to_owned())?;
        for (kind, head, length) in KINDS {
            if let Some(bytes) = der.strip_prefix(head).filter(|key| key.len() == length) {
                return Ok(Self {
                    kind,
                    bytes: bytes.to_vec(),
                });
            }
        }
        Err(
            "is of a kind that rl cannot check: ECDSA on P-256 and P-384, and Ed25519 are known"
                .to_owned(),
        )
    }

    fn made(&self, payload: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            KeyKind::P256 => &ECDSA_P256_SHA256_ASN1,
            KeyKind::P384 => &ECDSA_P384_SHA256_ASN1,
            KeyKind::Ed25519 => &ED25519,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        key.verify(payload, signature).is_ok()
    }
}

impl Signature {
    /// What it claims, if one of `keys` made it.
    ///
    /// # Errors
    /// Why it is nothing worth.
    pub fn verify(&self, keys: &[Key]) -> Result<Claim, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Payload {
            critical: Critical,
            #[serde(rename = "optional")]
            _optional: Option<serde_json::Value>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Critical {
            r#type: String,
            image: Image,
            identity: Identity,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct Image {
            docker_manifest_digest: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct Identity {
            docker_reference: String,
        }
        let bytes = base64::prelude::BASE64_STANDARD
            .decode(self.signature.trim())
            .map_err(|_| "it is no base64".to_owned())?;
        if !keys.iter().any(|key| key.made(&self.payload, &bytes)) {
            return Err("it is by another key, or of another content".to_owned());
        }
        // Only now is it worth reading.
        let payload: Payload = serde_json::from_slice(&self.payload)
            .map_err(|error| format!("what it signs cannot be read: {error}"))?;
        let critical = payload.critical;
        if critical.r#type != "cosign container image signature" {
            return Err(format!(
                "it signs `{}`, no image",
                critical.r#type.escape_debug()
            ));
        }
        Ok(Claim {
            manifest: critical.image.docker_manifest_digest,
            reference: critical.identity.docker_reference,
        })
    }

    /// Reads a file of a signature store; `None` for one of another kind, such as GPG's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_stored(bytes: &[u8]) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Stored {
            mime_type: String,
            payload: String,
            annotations: std::collections::BTreeMap<String, String>,
        }
        // Source: containers/image, internal/signature/signature.go.
        let Some(json) = bytes.strip_prefix(b"\0sigstore-json\n") else {
            return Ok(None);
        };
        let stored: Stored =
            serde_json::from_slice(json).map_err(|error| format!("it cannot be read: {error}"))?;
        if stored.mime_type != PAYLOAD {
            return Ok(None);
        }
        let payload = base64::prelude::BASE64_STANDARD
            .decode(stored.payload)
            .map_err(|_| "its payload is no base64".to_owned())?;
        let Some(signature) = stored.annotations.get(ANNOTATION) else {
            return Ok(None);
        };
        Ok(Some(Self {
            payload,
            signature: signature.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::json;

    fn pem(head: &[u8], key: &[u8]) -> String {
        let der = [head, key].concat();
        let text = base64::prelude::BASE64_STANDARD.encode(der);
        let (first, rest) = text.split_at(64.min(text.len()));
        format!("-----BEGIN PUBLIC KEY-----\n{first}\n{rest}\n-----END PUBLIC KEY-----\n")
    }

    fn payload(kind: &str) -> Vec<u8> {
        json!({
            "critical": {
                "type": kind,
                "image": {"docker-manifest-digest": "sha256:00"},
                "identity": {"docker-reference": "h.io/a:1"},
            },
            "optional": {"creator": "me"},
        })
        .to_string()
        .into_bytes()
    }

    const KIND: &str = "cosign container image signature";

    #[test]
    fn a_signature_is_good_for_its_key_and_its_content_alone() {
        let random = SystemRandom::new();
        let secret =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, secret.as_ref(), &random)
                .unwrap();
        let own = Key::parse(pem(KINDS[0].1, pair.public_key().as_ref()).as_bytes()).unwrap();
        let other = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let ed = Key::parse(pem(KINDS[2].1, other.public_key().as_ref()).as_bytes()).unwrap();
        let sign = |payload: Vec<u8>| {
            let signature = pair.sign(&random, &payload).unwrap();
            Signature {
                signature: base64::prelude::BASE64_STANDARD.encode(signature),
                payload,
            }
        };
        let good = sign(payload(KIND));
        let keys = [ed.clone(), own.clone()];
        let claim = good.verify(&keys).unwrap();
        assert_eq!(
            (&*claim.manifest, &*claim.reference),
            ("sha256:00", "h.io/a:1")
        );
        assert!(
            good.verify(std::slice::from_ref(&ed)).is_err(),
            "another key"
        );
        let mut changed = good.clone();
        changed.payload.push(b' ');
        assert!(changed.verify(&keys).is_err(), "another content");
        let mut broken = good;
        broken.signature = "no".to_owned();
        assert!(broken.verify(&keys).is_err());
        assert!(
            sign(payload("atomic container signature"))
                .verify(&keys)
                .is_err()
        );
        let strange = br#"{"critical": {"more": 1}, "optional": null}"#;
        assert!(sign(strange.to_vec()).verify(&keys).is_err());

        let by_ed = Signature {
            signature: base64::prelude::BASE64_STANDARD.encode(other.sign(&payload(KIND))),
            payload: payload(KIND),
        };
        assert!(by_ed.verify(&[ed]).is_ok());
        assert!(by_ed.verify(&[own]).is_err());
    }

    #[test]
    fn what_is_no_key_is_told() {
        let rsa = pem(b"\x30\x82\x01\x22", &[0; 32]);
        for (text, why) in [
            ("", "no public key"),
            (
                "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----",
                "base64",
            ),
            (&rsa, "cannot check"),
        ] {
            let said = Key::parse(text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Key::parse(&bytes);
            let stored = [&b"\0sigstore-json\n"[..], &bytes].concat();
            let _ = Signature::parse_stored(&stored);
        }
    }
}
