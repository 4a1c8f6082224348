//! TLS to the server, with libpq's meaning of `sslmode` and `sslrootcert`.
//!
//! With a root certificate the server's chain is verified in every mode; only `verify-full` also compares the host
//! name. Without one, modes below `verify-ca` encrypt without knowing to whom. Two differences from libpq: a host name
//! must be in the certificate's subjectAltName (the common name is not looked at), and the server's own self-signed
//! certificate given as the root is taken as it is, its dates unchecked.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::Conninfo;
use super::parameters::SslMode;
use crate::report::Advice;

/// What makes TLS connections with these parameters. It fails when a certificate or key can't be used.
pub(super) fn connector(info: &Conninfo, mode: SslMode) -> anyhow::Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        trust: trust(info, mode, &provider)?,
        check_name: mode == SslMode::VerifyFull,
        provider: provider.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(info)?)
        .context("choose TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(info)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).context("use the client certificate")?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = info.get("sslsni") != Some("0");
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn versions(info: &Conninfo) -> anyhow::Result<Vec<&'static rustls::SupportedProtocolVersion>> {
    let rank = |keyword: &str, default: u8| match info.get(keyword).map(str::to_ascii_lowercase).as_deref() {
        None => Ok(default),
        Some("tlsv1") => Ok(0),
        Some("tlsv1.1") => Ok(1),
        Some("tlsv1.2") => Ok(2),
        Some("tlsv1.3") => Ok(3),
        Some(other) => Err(Advice::usage(format!("invalid {keyword} {other:?}")).hint("TLSv1.2 or TLSv1.3")),
    };
    let range = rank("ssl_min_protocol_version", 2)?..=rank("ssl_max_protocol_version", 3)?;
    let known = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
    let chosen: Vec<_> =
        known.into_iter().filter(|(rank, _)| range.contains(rank)).map(|(_, version)| version).collect();
    ensure!(!chosen.is_empty(), Advice::usage("no TLS version is allowed").hint("TLSv1.2 and TLSv1.3 are supported"));
    Ok(chosen)
}

/// Whose certificates are believed.
#[derive(Debug)]
enum Trust {
    /// Anybody's: there is no root certificate and the mode wants none.
    Anybody,
    /// Those that lead to one of these roots.
    Roots { chain: Arc<WebPkiServerVerifier>, certificates: Vec<CertificateDer<'static>> },
}

fn trust(info: &Conninfo, mode: SslMode, provider: &Arc<CryptoProvider>) -> anyhow::Result<Trust> {
    let certificates = match info.get("sslrootcert") {
        Some("system") => system_roots()?,
        Some(path) if Path::new(path).exists() => read_certificates(path, "root certificates")?,
        missing if mode >= SslMode::VerifyCa => {
            let which = missing.map_or("none is given".to_owned(), |path| format!("{path} does not exist"));
            return Err(Advice::usage(format!("sslmode verify-ca and verify-full need a root certificate: {which}"))
                .hint("name the file with sslrootcert, or use sslrootcert=system for a publicly signed server")
                .into());
        }
        _ => return Ok(Trust::Anybody),
    };
    let mut roots = RootCertStore::empty();
    // The system's store may hold certificates that rustls does not read; one good root is enough to go on with.
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    ensure!(added > 0, Advice::usage("sslrootcert holds no usable certificate"));
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(path) = info.get("sslcrl").filter(|path| Path::new(path).exists()) {
        let lists = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        builder = builder
            .with_crls(lists.with_context(|| format!("read certificate revocation list {path}"))?)
            .allow_unknown_revocation_status();
    }
    Ok(Trust::Roots { chain: builder.build().context("use the root certificates")?, certificates })
}

fn system_roots() -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.into_iter().next() {
        Some(error) if found.certs.is_empty() => Err(error).context("read the system's root certificates"),
        _ => Ok(found.certs),
    }
}

fn read_certificates(path: &str, what: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| format!("read {what} {path}"))?;
    ensure!(!certificates.is_empty(), Advice::usage(format!("{path} holds no certificate")));
    Ok(certificates)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(info: &Conninfo) -> anyhow::Result<Option<Identity>> {
    let (Some(path), Some(key)) = (info.get("sslcert"), info.get("sslkey")) else { return Ok(None) };
    if info.get("sslcertmode") == Some("disable") || !Path::new(path).exists() {
        return Ok(None);
    }
    let chain = read_certificates(path, "client certificate")?;
    let metadata = std::fs::metadata(key).with_context(|| format!("read client key {key}"))?;
    // Root may own a key that a group reads, nobody else may.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        let message = format!("client key {key} can be accessed by group or others");
        return Err(Advice::usage(message).hint(format!("chmod 0600 {key}")).into());
    }
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("read client key {key}"))?;
    Ok(Some((chain, key)))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Roots { chain, certificates } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if certificates.iter().any(|root| root == end_entity) {
            if self.check_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, after the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", SslMode::Require, true)]
    #[case("", SslMode::VerifyCa, false)]
    #[case("sslrootcert=/nowhere/root.crt", SslMode::Prefer, true)]
    #[case("sslrootcert=/nowhere/root.crt", SslMode::VerifyFull, false)]
    #[case("ssl_min_protocol_version=TLSv1.3", SslMode::Prefer, true)]
    #[case("ssl_max_protocol_version=TLSv1.1", SslMode::Prefer, false)]
    #[case("ssl_min_protocol_version=SSLv3", SslMode::Prefer, false)]
    fn needs_what_the_mode_needs(#[case] text: &str, #[case] mode: SslMode, #[case] works: bool) {
        assert_eq!(connector(&Conninfo::parse(text).unwrap(), mode).is_ok(), works);
    }

    #[test]
    fn refuses_an_empty_root_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let info = Conninfo::parse(&format!("sslrootcert={}", file.path().display())).unwrap();
        let error = connector(&info, SslMode::Prefer).err().unwrap();
        assert!(error.to_string().contains("holds no certificate"), "{error:#}");
    }
}
