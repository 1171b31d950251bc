//! What a finished UKI says: command line, versions, who signed it.

use x509_cert::Certificate;

use crate::boot::authenticode;
use crate::boot::pe::Pe;
use crate::error::{Error, Kind, Result};

/// Where the stub writes its name and version: `#### LoaderInfo: systemd-stub 257.9 ####`.
const STUB_INFO: &str = "#### LoaderInfo: ";

/// A UKI as it was found.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The kernel command line.
    pub command_line: String,
    /// Version of the kernel; empty where the UKI has none.
    pub kernel: String,
    /// Name and version of the stub; empty where it has none.
    pub stub: String,
    /// Name and bytes of all sections, in their order.
    pub sections: Vec<(String, u64)>,
    /// The certificate that came with the signature: nobody has vouched for it.
    pub signer: Option<Certificate>,
}

/// Reads a UKI without trusting it.
///
/// # Errors
/// [`Kind::Document`] when it is no PE file, or has no command line that is text.
pub fn contents(uki: &[u8]) -> Result<Contents> {
    let pe = Pe::parse(uki)?;
    let text =
        |name: &str| pe.section(name).map(|bytes| String::from_utf8_lossy(bytes).trim_matches(['\0', '\n', ' ']).to_owned());
    let command_line = text(".cmdline").ok_or_else(|| Error::new(Kind::Document, "the UKI has no section `.cmdline`"))?;
    let stub = text(".sdmagic").and_then(|text| {
        let rest = text.split_once(STUB_INFO)?.1;
        Some(rest.split(" ####").next().unwrap_or(rest).to_owned())
    });
    Ok(Contents {
        command_line,
        kernel: text(".uname").unwrap_or_default(),
        stub: stub.unwrap_or_default(),
        sections: pe.sections().iter().map(|s| (s.name.clone(), u64::from(s.raw_size.min(s.virtual_size)))).collect(),
        signer: authenticode::carried(&pe),
    })
}

impl Contents {
    /// The one root hash on the command line.
    ///
    /// # Errors
    /// [`Kind::Document`] when there is none, more than one, or it is no SHA-256.
    pub fn root_hash(&self) -> Result<trust::Sha256Digest> {
        let words: Vec<&str> =
            self.command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("roothash=")).collect();
        let [word] = words.as_slice() else {
            return Err(Error::new(
                Kind::Document,
                format!("the command line has {} words `roothash=`, expected one", words.len()),
            ));
        };
        word.parse().map_err(|e| Error::new(Kind::Document, format!("the root hash on the command line: {e}")))
    }

    /// The command line without the root hash, which is another in every build.
    pub fn settled_command_line(&self) -> String {
        let words: Vec<&str> = self.command_line.split_ascii_whitespace().filter(|word| !word.starts_with("roothash=")).collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::pe::tests::sample;
    use super::super::uki::{Section, uki};
    use super::*;
    use crate::keys::secure_boot::tests::keys;

    fn with(command_line: &str) -> Vec<u8> {
        let kernel = sample();
        let sections = [
            Section { name: ".cmdline", data: command_line.as_bytes() },
            Section { name: ".uname", data: b"6.12" },
            Section { name: ".linux", data: &kernel },
        ];
        uki(&sample(), &sections).unwrap()
    }

    #[test]
    fn a_uki_tells_what_is_in_it() {
        let hash = "ab".repeat(32);
        let bytes = with(&format!("quiet roothash={hash} rw"));
        let found = contents(&bytes).unwrap();
        assert_eq!((found.kernel.as_str(), found.settled_command_line().as_str()), ("6.12", "quiet rw"));
        assert_eq!(found.root_hash().unwrap().to_string(), hash);
        assert!(found.signer.is_none());
        let signed = authenticode::sign(&bytes, &keys().db).unwrap();
        assert_eq!(contents(&signed).unwrap().signer.as_ref(), Some(keys().db.certificate()));
    }

    #[test]
    fn a_doubled_or_missing_root_hash_is_refused() {
        let hash = "ab".repeat(32);
        for (line, why) in [
            ("quiet", "has 0 words"),
            (&format!("roothash={hash} roothash={hash}") as &str, "has 2 words"),
            ("roothash=xy", "root hash on"),
        ] {
            let error = contents(&with(line)).unwrap().root_hash().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(contents(&sample()).is_err() && contents(b"").is_err());
    }
}
