// Package authz holds the stages of the authorization pipeline, one file each: password, challenge, device-password,
// shared-secret, client-certificate, vendor-ca, device-certificate, ra, own-certificate, inventory, registration, approval, policy, webhook, limits, keys and names. A stage judges one
// gateway.Request, shapes its gateway.Grant, and says in its note, for the operator, what it compared. It never writes: what
// it uses up it returns as claims. What it has to look up it asks of small interfaces declared here, and what it cannot look
// up it does not allow.
//
// Each stage has a config struct, whose fields are the keys of the stage in a configuration file, and a constructor
// that reads the files it names and refuses what cannot work. cmd/muster wires stages into pipelines; anyOf and not
// are the gateway's. The package knows no protocol: adapters have established the facts that stages judge.
package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// maxFile bounds the files that a stage reads: a block list of 100,000 keys takes 7 MB.
const maxFile = 16 << 20

// resolve returns the path as it stands when absolute, else below the folder of the configuration.
func resolve(dir, path string) string { return strictyaml.Below(dir, path) }

// readFile reads a bounded file named in a configuration.
func readFile(dir, path string) ([]byte, error) { return strictyaml.ReadFile(dir, path, maxFile) }

// certificateKinds reads the kinds of a stage that looks at certificates; both when none is given.
func certificateKinds(names []string) ([]gateway.CredentialKind, error) {
	if len(names) == 0 {
		return []gateway.CredentialKind{gateway.CredentialTLS, gateway.CredentialSigner}, nil
	}
	var kinds []gateway.CredentialKind
	for _, n := range names {
		kind := gateway.CredentialKind(n)
		if kind != gateway.CredentialTLS && kind != gateway.CredentialSigner {
			return nil, fmt.Errorf("kinds: %q is not a kind of certificate (known: %s, %s)", n, gateway.CredentialTLS, gateway.CredentialSigner)
		}
		if slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("kinds: %q stands twice", n)
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}

// carried returns the first credential of the first kind that the request carries with a certificate.
func carried(r *gateway.Request, kinds []gateway.CredentialKind) (gateway.Credential, bool) {
	for _, kind := range kinds {
		if c, ok := r.Credential(kind); ok && len(c.Chain) > 0 && c.Chain[0] != nil {
			return c, true
		}
	}
	return gateway.Credential{}, false
}

func joinKinds(kinds []gateway.CredentialKind) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	return strings.Join(words, " or ")
}

// nameDevice names the device, or gives the denial of a request that speaks for two.
func nameDevice(g *gateway.Grant, name string) (gateway.Verdict, bool) {
	return namedAs(g, name, g.NameDevice(name))
}

// nameRecorded is nameDevice with a name of the gateway's own records.
func nameRecorded(g *gateway.Grant, name string) (gateway.Verdict, bool) {
	return namedAs(g, name, g.NameRecorded(name))
}

func namedAs(g *gateway.Grant, name string, ok bool) (gateway.Verdict, bool) {
	if ok {
		return gateway.Verdict{}, true
	}
	return gateway.Denied(gateway.NotAuthorized, "the credentials name two devices",
		fmt.Sprintf("this stage found device %q, an earlier one %q", name, g.Device)), false
}
