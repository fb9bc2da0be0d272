//! Whom we believe: the TLS set-up of API, Keep and websocket.
//!
//! Authorities come from the first of the files that Arvados clients look at (protocol.md 0). A certificate that is
//! itself in that file is believed too, whatever its role: small clusters put their one self-signed certificate there,
//! and OpenSSL takes that where WebPKI says `CaUsedAsEndEntity`.

use crate::remote::error::{Error, Result};
use crate::remote::settings::Settings;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where systems keep their authorities, after `SSL_CERT_FILE`, in the order of the Python client.
const FILES: [&str; 3] =
    ["/etc/arvados/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The client side of TLS as `settings` want it. Errors: no file of authorities can be used.
pub fn client_configuration(settings: &Settings) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if settings.insecure {
        Arc::new(Anyone { provider: provider.clone() })
    } else {
        let authorities = authorities(settings.certificate_file.as_deref())?;
        Arc::new(Listed::new(authorities, provider.clone())?)
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable("TLS".to_owned(), error))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn unusable(place: String, problem: impl ToString) -> Error {
    Error::Certificates { place, problem: problem.to_string() }
}

struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    place: String,
}

fn authorities(chosen: Option<&Path>) -> Result<Authorities> {
    let usual = FILES.iter().map(PathBuf::from).find(|path| path.is_file());
    if let Some(file) = chosen.map(Path::to_owned).or(usual) {
        let place = file.display().to_string();
        let certificates =
            CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|error| unusable(place.clone(), error))?;
        return Ok(Authorities { certificates, place });
    }
    let found = rustls_native_certs::load_native_certs();
    let place = "the certificate store of this system".to_owned();
    Ok(Authorities { certificates: found.certs, place })
}

/// Believes what the authorities have signed, and the listed certificates themselves.
#[derive(Debug)]
struct Listed {
    chain: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Listed {
    fn new(authorities: Authorities, provider: Arc<CryptoProvider>) -> Result<Listed> {
        let Authorities { certificates, place } = authorities;
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
        if usable == 0 {
            return Err(unusable(place, "there is none"));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
        Ok(Listed { chain: chain.map_err(|error| unusable(place, error))?, listed: certificates })
    }
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let by_chain = self.chain.verify_server_cert(certificate, intermediates, name, ocsp, now);
        if by_chain.is_err() && self.listed.contains(certificate) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        by_chain
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Believes any certificate (`ARVADOS_API_HOST_INSECURE`); the server must still hold the key that belongs to it.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
