//! The cluster's own TLS certificate.
//!
//! Made on the first start and kept, because clients may have been told to trust it. It signs itself and says that it is
//! an authority, so that the one file works as the CA file that `SSL_CERT_FILE` names (protocol.md 0). Valid for names of
//! this machine only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::directory;

/// Why there is no certificate to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What is in the files cannot be used.
    #[error("cannot use {}: {why}; delete it and {} to have new ones made", certificate.display(), key.display())]
    Unusable {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Years before a new one is needed. Nobody renews it, so it is long.
const LAST_YEAR_OF_VALIDITY: i32 = 2125;

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, which is also the CA file for clients.
    pub certificate: PathBuf,
    /// Its key, for the owner's eyes only.
    pub key: PathBuf,
}

impl Files {
    /// In the data folder of a cluster.
    pub fn of(folder: &Path) -> Self {
        Self { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") }
    }

    /// The settings of a TLS listener, with a certificate that is made now if there is none. `address` is where the
    /// cluster listens: a new certificate is valid for it too.
    pub fn server_config(&self, address: IpAddr) -> Result<ServerConfig, Error> {
        if !self.certificate.exists() {
            self.make(address)?;
        }
        let file = |path: &Path| {
            let path = path.to_owned();
            std::fs::read(&path).map_err(|source| Error::File { path, source })
        };
        let unusable =
            |why: String| Error::Unusable { certificate: self.certificate.clone(), key: self.key.clone(), why };
        let chain = CertificateDer::pem_slice_iter(&file(&self.certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&file(&self.key)?).map_err(|error| unusable(error.to_string()))?;
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| unusable(error.to_string()))
    }

    fn make(&self, address: IpAddr) -> Result<(), Error> {
        let mut names = vec!["localhost".to_owned()];
        names.extend(nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
        names.dedup();
        let mut parameters = CertificateParams::new(names)?;
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if !address.is_unspecified() && !addresses.contains(&address) {
            addresses.push(address);
        }
        parameters.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "Arvados embedded cluster");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.not_after = rcgen::date_time_ymd(LAST_YEAR_OF_VALIDITY, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?;
        let write = |path: &Path, text: String| {
            let path = path.to_owned();
            directory::write_private(&path, text.as_bytes()).map_err(|source| Error::File { path, source })
        };
        // The key first: without it a certificate is of no use, and the certificate is what says that both are there.
        write(&self.key, key.serialize_pem())?;
        write(&self.certificate, certificate.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        files.server_config(Ipv4Addr::LOCALHOST.into()).unwrap();
        let first = std::fs::read(&files.certificate).unwrap();
        files.server_config(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!(std::fs::read(&files.certificate).unwrap(), first);
        assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_certificate_is_reported_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        std::fs::write(&files.certificate, "nonsense").unwrap();
        std::fs::write(&files.key, "nonsense").unwrap();
        let error = files.server_config(Ipv4Addr::LOCALHOST.into()).unwrap_err().to_string();
        assert!(error.contains("key.pem") && error.contains("delete"), "{error}");
    }
}
