#!/usr/bin/env python3
"""Makes the files in data/ from the published manifests of Cluster API and the in-cluster IPAM provider.

Needs go, kubectl and PyYAML. The manifests come through the Go module proxy, so their content is what
the checksum database vouches for. See README.md for what is kept and what is left out.
"""

import json
import pathlib
import subprocess

import yaml

CLUSTER_API = "sigs.k8s.io/cluster-api@v1.14.2"
IPAM_IN_CLUSTER = "sigs.k8s.io/cluster-api-ipam-provider-in-cluster@v1.1.0"

# (module, overlay within the module, directory below data/)
OVERLAYS = [
    (CLUSTER_API, "core/config/default", "cluster-api"),
    (CLUSTER_API, "bootstrap/kubeadm/config/default", "cluster-api"),
    (CLUSTER_API, "controlplane/kubeadm/config/default", "cluster-api"),
    (IPAM_IN_CLUSTER, "config/default", "ipam-in-cluster"),
]


def module_directory(module):
    out = subprocess.run(["go", "mod", "download", "-json", module], check=True, capture_output=True)
    return pathlib.Path(json.loads(out.stdout)["Dir"])


def without_descriptions(schema):
    """A copy of a JSON schema without prose. Descends by keyword, since a property may be named description."""
    kept = {}
    for keyword, value in schema.items():
        if keyword == "description":
            continue
        if keyword == "properties":
            value = {name: without_descriptions(child) for name, child in value.items()}
        elif keyword in ("items", "additionalProperties", "not") and isinstance(value, dict):
            value = without_descriptions(value)
        elif keyword in ("allOf", "anyOf", "oneOf"):
            value = [without_descriptions(child) for child in value]
        kept[keyword] = value
    return kept


def reduced(crd):
    """The storage version alone, without conversion webhook and certificate injection."""
    metadata, spec = crd["metadata"], crd["spec"]
    versions = [version for version in spec["versions"] if version["storage"]]
    names = {version["name"] for version in versions}
    for version in versions:
        version["schema"]["openAPIV3Schema"] = without_descriptions(version["schema"]["openAPIV3Schema"])
        for column in version.get("additionalPrinterColumns", []):
            column.pop("description", None)
    labels = {
        key: value
        for key, value in metadata.get("labels", {}).items()
        # A contract label lists versions of this CRD; one whose versions are left out here would be false.
        if not (key.startswith("cluster.x-k8s.io/v") and not names.intersection(value.split("_")))
    }
    kept_spec = {key: spec[key] for key in ("group", "names", "scope")}
    kept_spec["versions"] = versions
    return {
        "apiVersion": crd["apiVersion"],
        "kind": crd["kind"],
        "metadata": {"name": metadata["name"], "labels": labels},
        "spec": kept_spec,
    }


def main():
    data = pathlib.Path(__file__).parent / "data"
    for module, overlay, directory in OVERLAYS:
        manifests = subprocess.run(
            ["kubectl", "kustomize", str(module_directory(module) / overlay)], check=True, capture_output=True
        ).stdout
        target = data / directory
        target.mkdir(parents=True, exist_ok=True)
        for document in yaml.safe_load_all(manifests):
            if document["kind"] != "CustomResourceDefinition":
                continue
            text = json.dumps(reduced(document), sort_keys=True, separators=(",", ":"))
            (target / (document["metadata"]["name"] + ".json")).write_text(text + "\n")


main()
