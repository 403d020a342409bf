use serde::Serialize;

/// Who a machine is, as `meta-data` says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaData {
    /// SMBIOS UUID of the virtual machine; also what `{{ ds.meta_data.instance_id }}` in
    /// bootstrap data stands for.
    pub instance_id: String,
    /// Name of the machine, and of its Node.
    pub hostname: String,
    /// Provider id, if the spec asks for it to be here.
    pub provider_id: Option<String>,
    /// Version of Kubernetes that the machine runs.
    pub kubernetes_version: Option<String>,
}

/// The keys in the order of the file.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'a> {
    instance_id: &'a str,
    local_hostname: &'a str,
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes_version: Option<&'a str>,
}

impl Serialize for MetaData {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = File {
            instance_id: &self.instance_id,
            local_hostname: &self.hostname,
            hostname: &self.hostname,
            provider_id: self.provider_id.as_deref(),
            kubernetes_version: self.kubernetes_version.as_deref(),
        };
        file.serialize(serializer)
    }
}
