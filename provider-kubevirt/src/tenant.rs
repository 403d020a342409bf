//! A tenant of an infra cluster: a namespace, an account that may do there what this provider does and
//! nothing else, and the Secret with its kubeconfig for the management cluster.
//!
//! What is there already is kept as it is but for the Role, which is brought up to date. Two tenants
//! see nothing of each other: all rights are in the namespace.

use kube::core::Request;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::rights;

/// Name of the account, its Role and its binding.
pub const ACCOUNT: &str = "cluster-api-provider-kubevirt";

/// What is wished.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Namespace in the infra cluster.
    pub namespace: String,
    /// Name of the Secret for the management cluster.
    pub secret: String,
    /// How long the token is good, in days; a server may give less.
    pub days: u32,
}

/// Why a tenant could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// The infra cluster did not do it.
    #[error("{attempt} in the infra cluster")]
    Infra {
        /// What was attempted.
        attempt: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The answer has no token.
    #[error("the infra cluster gave no token")]
    NoToken,
    /// The kubeconfig cannot be written.
    #[error("write the kubeconfig")]
    Yaml(#[source] serde_saphyr::ser::Error),
}

/// The objects in the infra cluster.
#[must_use]
pub fn manifests(namespace: &str) -> Vec<Value> {
    let meta = json!({"name": ACCOUNT, "namespace": namespace});
    let api = "rbac.authorization.k8s.io";
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": meta,
            "rules": rights::rules()}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]}),
    ]
}

/// Makes the tenant, with the rights of an administrator of the infra cluster. The Secret for the
/// management cluster, which holds the token: it is printed and kept nowhere.
///
/// # Errors
///
/// If the infra cluster refuses something, or does not answer.
pub async fn make(client: &Client, config: &Config, tenant: &Tenant) -> Result<Value, TenantError> {
    for object in manifests(&tenant.namespace) {
        apply(client, &object).await?;
    }
    let token = token(client, tenant).await?;
    let kubeconfig = kubeconfig(config, &tenant.namespace, &token);
    let kubeconfig = serde_saphyr::to_string(&kubeconfig).map_err(TenantError::Yaml)?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": tenant.secret,
            "labels": {"clusterctl.cluster.x-k8s.io/move": "true"},
        },
        "type": "Opaque",
        "stringData": {"kubeconfig": kubeconfig, "namespace": tenant.namespace},
    }))
}

/// Path of the resource that an object belongs to.
fn path(object: &Value) -> String {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => "/api/v1/namespaces".to_owned(),
        "ServiceAccount" => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        kind => {
            let plural = format!("{}s", kind.to_lowercase());
            format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}")
        }
    }
}

async fn apply(client: &Client, object: &Value) -> Result<(), TenantError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let failed = |source| TenantError::Infra {
        attempt: format!(
            "apply {} {name}",
            object["kind"].as_str().unwrap_or_default()
        ),
        source: Box::new(source),
    };
    let params = kube::api::PatchParams::apply("provider-kubevirt-tenant").force();
    let patch = kube::api::Patch::Apply(object);
    let request = Request::new(path(object)).patch(name, &params, &patch);
    let request = request.map_err(kube::Error::BuildRequest).map_err(failed)?;
    client.request::<Value>(request).await.map_err(failed)?;
    Ok(())
}

async fn token(client: &Client, tenant: &Tenant) -> Result<String, TenantError> {
    let failed = |source| TenantError::Infra {
        attempt: format!("ask for a token of {}/{ACCOUNT}", tenant.namespace),
        source: Box::new(source),
    };
    const DAY: u64 = 24 * 60 * 60;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": u64::from(tenant.days) * DAY},
    });
    let namespace = &tenant.namespace;
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token");
    let body = serde_json::to_vec(&review)
        .map_err(kube::Error::SerdeError)
        .map_err(failed)?;
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)
        .map_err(failed)?;
    let answer: Value = client.request(request).await.map_err(failed)?;
    let token = answer["status"]["token"]
        .as_str()
        .filter(|token| !token.is_empty());
    token.map(str::to_owned).ok_or(TenantError::NoToken)
}

/// A kubeconfig that holds all it needs.
fn kubeconfig(config: &Config, namespace: &str, token: &str) -> Value {
    let mut cluster = json!({"server": config.cluster_url.to_string()});
    if let Some(authorities) = &config.root_cert {
        let pem: Vec<u8> = authorities
            .iter()
            .flat_map(|der| pem(der).into_bytes())
            .collect();
        cluster["certificate-authority-data"] = json!(k8s_openapi::ByteString(pem));
    }
    if config.accept_invalid_certs {
        cluster["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(name) = &config.tls_server_name {
        cluster["tls-server-name"] = json!(name);
    }
    let name = "infra";
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {
            "cluster": name, "user": name, "namespace": namespace}}],
    })
}

/// A certificate in text form (RFC 7468).
fn pem(der: &[u8]) -> String {
    let encoded = json!(k8s_openapi::ByteString(der.to_vec()));
    let encoded = encoded.as_str().unwrap_or_default().to_owned();
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_kubeconfig_holds_all_that_the_administrator_reached_the_server_with() {
        let mut config = Config::new("https://infra.example:6443".parse().unwrap());
        let plain = kubeconfig(&config, "tenant-a", "a-token");
        let server = json!({"server": "https://infra.example:6443/"});
        assert_eq!(plain["clusters"][0]["cluster"], server);
        assert_eq!(plain["users"][0]["user"], json!({"token": "a-token"}));
        let context = json!({"cluster": "infra", "user": "infra", "namespace": "tenant-a"});
        assert_eq!(plain["contexts"][0]["context"], context);
        assert_eq!(plain["current-context"], plain["contexts"][0]["name"]);

        let authorities = [vec![7; 200], vec![8; 100]];
        config.root_cert = Some(authorities.to_vec());
        config.accept_invalid_certs = true;
        config.tls_server_name = Some("infra.internal".into());
        let cluster = kubeconfig(&config, "tenant-a", "a-token")["clusters"][0]["cluster"].take();
        assert_eq!(cluster["insecure-skip-tls-verify"], true);
        assert_eq!(cluster["tls-server-name"], "infra.internal");
        let text = cluster["certificate-authority-data"].as_str().unwrap();
        let text = String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
        assert!(
            text.lines().all(|line| line.len() <= 64),
            "RFC 7468: {text}"
        );
        let both = text.split("-----BEGIN CERTIFICATE-----\n").skip(1);
        let both = both.map(|one| {
            let (body, rest) = one.split_once("-----END CERTIFICATE-----\n").unwrap();
            assert_eq!(rest, "");
            STANDARD.decode(body.replace('\n', "")).unwrap()
        });
        assert_eq!(both.collect::<Vec<_>>(), authorities);
    }
}
