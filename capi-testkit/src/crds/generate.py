#!/usr/bin/env python3
"""Makes the files in data/ from what Cluster API, the in-cluster IPAM provider, KubeVirt and CDI publish.

Needs go, kubectl and PyYAML. Everything comes through the Go module proxy, so its content is what the
checksum database vouches for; CDI's module is too large for that database and is taken by its version
alone. See README.md for what is kept and what is left out.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

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

# KubeVirt has its definitions as Go code that virt-operator runs; this is the part of that code, and what
# it needs at the versions of KubeVirt's own go.mod.
KUBEVIRT = "kubevirt.io/kubevirt@v1.9.0"
KUBEVIRT_CODE = "pkg/virt-operator/resource/generate/components"
KUBEVIRT_GO_MOD = """module definitions

go 1.24

require (
	k8s.io/api v0.34.2
	k8s.io/apiextensions-apiserver v0.34.2
	k8s.io/apimachinery v0.34.2
	kubevirt.io/api v1.9.0
)
"""
KUBEVIRT_MAIN = """package main

import (
	"encoding/json"
	"os"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

func main() {
	out := json.NewEncoder(os.Stdout)
	for _, build := range []func() (*extv1.CustomResourceDefinition, error){
		NewVirtualMachineCrd,
		NewVirtualMachineInstanceCrd,
		NewVirtualMachineInstanceMigrationCrd,
		NewVirtualMachinePoolCrd,
		NewVirtualMachineInstancetypeCrd,
		NewVirtualMachineClusterInstancetypeCrd,
		NewVirtualMachinePreferenceCrd,
		NewVirtualMachineClusterPreferenceCrd,
	} {
		crd, err := build()
		if err == nil {
			err = out.Encode(crd)
		}
		if err != nil {
			panic(err)
		}
	}
}
"""

# CDI has its definitions as text in one Go file.
CDI = "kubevirt.io/containerized-data-importer@v1.64.0"
CDI_FILE = "pkg/operator/resources/crds_generated.go"
CDI_KINDS = ["dataimportcron", "datasource", "datavolume", "storageprofile"]


def module_directory(module, environment=None):
    command = ["go", "mod", "download", "-json", module]
    out = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **(environment or {})})
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


def write(crd, directory):
    target = pathlib.Path(__file__).parent / "data" / directory
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps(reduced(crd), sort_keys=True, separators=(",", ":"))
    (target / (crd["metadata"]["name"] + ".json")).write_text(text + "\n")


def overlays():
    for module, overlay, directory in OVERLAYS:
        manifests = subprocess.run(
            ["kubectl", "kustomize", str(module_directory(module) / overlay)], check=True, capture_output=True
        ).stdout
        for document in yaml.safe_load_all(manifests):
            if document["kind"] == "CustomResourceDefinition":
                write(document, directory)


def kubevirt():
    module = module_directory(KUBEVIRT)
    with tempfile.TemporaryDirectory() as name:
        program = pathlib.Path(name)
        for file in ("crds.go", "validations_generated.go"):
            code = (module / KUBEVIRT_CODE / file).read_text()
            code = code.replace("package components", "package main", 1)
            code = code.replace('"kubevirt.io/kubevirt/pkg/pointer"', '"definitions/pointer"')
            (program / file).write_text(code)
        (program / "pointer").mkdir()
        shutil.copyfile(module / "pkg/pointer/pointer.go", program / "pointer" / "pointer.go")
        (program / "go.mod").write_text(KUBEVIRT_GO_MOD)
        (program / "main.go").write_text(KUBEVIRT_MAIN)
        out = subprocess.run(
            ["go", "run", "-mod=mod", "."], check=True, capture_output=True, cwd=program
        ).stdout
    for line in out.splitlines():
        write(json.loads(line), "kubevirt")


def cdi():
    # The checksum database refuses modules of this size.
    module = module_directory(CDI, {"GONOSUMDB": "kubevirt.io/containerized-data-importer"})
    code = (module / CDI_FILE).read_text().replace('` + "`" + `', "\0")
    texts = dict(re.findall(r'\t"(\w+)": `([^`]*)`', code))
    for kind in CDI_KINDS:
        write(yaml.safe_load(texts[kind].replace("\0", "`")), "cdi")


overlays()
kubevirt()
cdi()
