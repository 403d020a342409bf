// Strict reads objects from standard input, one JSON document per line, and decodes each by the Go
// types that KubeVirt, its image importer and Kubernetes publish. A field that the types do not know,
// a field written twice, in another case or of another type is an error: the API servers would prune
// or refuse it.
//
// Output: one line per object that does not decode, `<line>: <kind> <name>: <what is wrong>`. Exit
// code 1 if there is any, 2 for a kind that it has no type for or input that is no object.
package main

import (
	"bufio"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	instancetypev1beta1 "kubevirt.io/api/instancetype/v1beta1"
	cdiv1beta1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
	"sigs.k8s.io/json"
)

// A virtual machine with its bootstrap data is a few kilobytes; etcd takes no object above 1.5 MiB.
const longestLine = 2 << 20

// One empty value per kind that a provider may write into an infra cluster.
var types = map[string]func() any{
	"v1/Secret":                         func() any { return &corev1.Secret{} },
	"v1/Service":                        func() any { return &corev1.Service{} },
	"v1/Event":                          func() any { return &corev1.Event{} },
	"v1/Namespace":                      func() any { return &corev1.Namespace{} },
	"v1/ServiceAccount":                 func() any { return &corev1.ServiceAccount{} },
	"v1/PersistentVolumeClaim":          func() any { return &corev1.PersistentVolumeClaim{} },
	"rbac.authorization.k8s.io/v1/Role": func() any { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding": func() any {
		return &rbacv1.RoleBinding{}
	},
	"kubevirt.io/v1/VirtualMachine":         func() any { return &kubevirtv1.VirtualMachine{} },
	"kubevirt.io/v1/VirtualMachineInstance": func() any { return &kubevirtv1.VirtualMachineInstance{} },
	"kubevirt.io/v1/VirtualMachineInstanceMigration": func() any {
		return &kubevirtv1.VirtualMachineInstanceMigration{}
	},
	"instancetype.kubevirt.io/v1beta1/VirtualMachineInstancetype": func() any {
		return &instancetypev1beta1.VirtualMachineInstancetype{}
	},
	"instancetype.kubevirt.io/v1beta1/VirtualMachinePreference": func() any {
		return &instancetypev1beta1.VirtualMachinePreference{}
	},
	"cdi.kubevirt.io/v1beta1/DataVolume": func() any { return &cdiv1beta1.DataVolume{} },
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	code, checked := 0, 0
	for number := 1; lines.Scan(); number++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		checked++
		found, worst := check(lines.Bytes())
		for _, wrong := range found {
			fmt.Printf("%d: %s\n", number, wrong)
		}
		code = max(code, worst)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintf(os.Stderr, "read the objects: %v\n", err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "%d objects checked\n", checked)
	os.Exit(code)
}

// check says what is wrong with one object, and the exit code that this asks for.
func check(text []byte) ([]string, int) {
	var head metav1.PartialObjectMetadata
	if err := json.UnmarshalCaseSensitivePreserveInts(text, &head); err != nil {
		return []string{fmt.Sprintf("no object: %v", err)}, 2
	}
	name := head.Name
	if name == "" {
		name = head.GenerateName
	}
	kind := head.APIVersion + "/" + head.Kind
	blank, known := types[kind]
	if !known {
		return []string{fmt.Sprintf("%s %s: no type for this kind", kind, name)}, 2
	}
	object := blank()
	faults, err := json.UnmarshalStrict(text, object)
	if err != nil {
		faults = append(faults, err)
	} else {
		faults = append(faults, inside(text, head.Kind)...)
		faults = append(faults, lost(text, object)...)
	}
	var wrong []string
	for _, fault := range faults {
		wrong = append(wrong, fmt.Sprintf("%s %s: %v", kind, name, fault))
	}
	slices.Sort(wrong)
	wrong = slices.Compact(wrong)
	return wrong, min(len(wrong), 1)
}

// plainSpec is the specification of an instance without its own way to decode, below which the strict
// decoder would see nothing.
type plainSpec kubevirtv1.VirtualMachineInstanceSpec

// inside decodes the specification of an instance strictly.
func inside(text []byte, kind string) []error {
	var outer struct {
		Spec stdjson.RawMessage `json:"spec"`
	}
	var machine struct {
		Template struct {
			Spec stdjson.RawMessage `json:"spec"`
		} `json:"template"`
	}
	path := "spec"
	if err := stdjson.Unmarshal(text, &outer); err != nil {
		return []error{err}
	}
	spec := outer.Spec
	switch kind {
	case "VirtualMachineInstance":
	case "VirtualMachine":
		if err := stdjson.Unmarshal(spec, &machine); err != nil && len(spec) > 0 {
			return []error{err}
		}
		path, spec = "spec.template.spec", machine.Template.Spec
	default:
		return nil
	}
	if len(spec) == 0 {
		return nil
	}
	faults, err := json.UnmarshalStrict(spec, &plainSpec{})
	if err != nil {
		faults = append(faults, err)
	}
	for index, fault := range faults {
		faults[index] = fmt.Errorf("in %s: %w", path, fault)
	}
	return faults
}

// lost finds what does not come back when the object is written again, for the other types that decode
// themselves.
func lost(text []byte, object any) []error {
	written, err := stdjson.Marshal(object)
	if err != nil {
		return []error{err}
	}
	var before, after any
	if err := errors.Join(stdjson.Unmarshal(text, &before), stdjson.Unmarshal(written, &after)); err != nil {
		return []error{err}
	}
	return missing("", before, after)
}

func missing(path string, before, after any) []error {
	var all []error
	switch before := before.(type) {
	case map[string]any:
		after, _ := after.(map[string]any)
		for key, value := range before {
			if other, found := after[key]; found {
				all = append(all, missing(path+"."+key, value, other)...)
			} else if !empty(value) {
				all = append(all, fmt.Errorf("unknown field %q", strings.TrimPrefix(path+"."+key, ".")))
			}
		}
	case []any:
		after, _ := after.([]any)
		for index, value := range before {
			if index < len(after) {
				all = append(all, missing(fmt.Sprintf("%s[%d]", path, index), value, after[index])...)
			}
		}
	}
	return all
}

// empty says whether a value is one that types leave out when they are written.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case float64:
		return value == 0
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		for _, inner := range value {
			if !empty(inner) {
				return false
			}
		}
		return true
	}
	return false
}
