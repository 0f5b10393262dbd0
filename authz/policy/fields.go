package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// Field is something that expressions can read.
type Field struct {
	Path    string `json:"path"` // "request.key.bits"
	Type    string `json:"type"` // "int", "list(string)", "Certificate"
	Meaning string `json:"meaning"`
}

// Group is a variable or a kind of value with its fields.
type Group struct {
	Name   string  `json:"name"` // "request", or of a kind of value: "Name"
	Fields []Field `json:"fields"`
}

// Fields lists all that expressions can read: the variables, then the kinds of values that they are made of.
func Fields() []Group {
	var all []Group
	top := Group{Name: "variables"}
	for _, v := range variables {
		top.Fields = append(top.Fields, Field{v.Name, typeName(v.Type), meanings[v.Name]})
	}
	all = append(all, top)
	var kinds []Group
	seen := map[reflect.Type]bool{}
	var kind func(t reflect.Type, path string)
	kind = func(t reflect.Type, path string) {
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || t == typeTime || seen[t] {
			return
		}
		seen[t] = true
		name := typeName(t)
		g := Group{Name: name}
		for _, f := range factsFields(t) {
			g.Fields = append(g.Fields, Field{f.Name, typeName(f.Type), meanings[name+"."+f.Name]})
		}
		kinds = append(kinds, g)
		for _, f := range factsFields(t) {
			kind(f.Type, path+"."+f.Name)
		}
	}
	for _, v := range variables {
		kind(v.Type, v.Name)
	}
	slices.SortStableFunc(kinds, func(a, b Group) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	return append(all, kinds...)
}

// rank has the kinds of the variables before those that they are made of.
func rank(kind string) int {
	if i := slices.Index([]string{"Request", "Credential", "Device", "Grant"}, kind); i >= 0 {
		return i
	}
	return 4
}

func typeName(t reflect.Type) string { return typeWords(celType(t).String()) }

// Example is a rule that shows how fields are written.
const Example = `rules:
  - {name: strong-keys, if: 'request.key.algorithm == "RSA" && request.key.bits < 3072', deny: "RSA keys need 3072 bits"}
  - {name: known, if: device.known, allow: true}`

// meanings says of each field what stands there.
var meanings = func() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(meaningLines) {
		if path, text, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			m[path] = strings.TrimSpace(text)
		}
	}
	return m
}()

const meaningLines = `
request  what is asked for; the requester's word, but for how it came and what pop says
credentials  what came to authenticate the requester
requester  who authenticated, e.g. "password:factory"; "" for nobody so far
device  the device, as the stages before have found it
grant  what would be certified, as far as the stages before have shaped it
attributes  what the operator's services said of the request (stage webhook)
now  when it is judged

Request.id  the gateway's ID, that muster explain takes
Request.protocol  "cmp", "est", "scep" or "mdm"
Request.endpoint  the endpoint's name
Request.operation  "enroll", "renew", "rekey", "revoke" or "query"
Request.transaction  the protocol's own ID, as the client chose it
Request.profile  the profile that is asked for
Request.subject  the name that is asked for
Request.sans  the names of the subjectAltName that is asked for
Request.key  the public key; empty where the gateway makes it
Request.generates  the gateway is asked to make the key
Request.pop  how possession of the key was shown: "signature", "tls-binding", "ra", "pending-confirm" or "none"
Request.extensions  OIDs of the extensions that are asked for
Request.notBefore  the first instant that is asked for
Request.notAfter  the last instant that is asked for
Request.renews  renew, rekey: the certificate that the request would renew, which counts where a stage before has judged it
Request.newSubject  renew, rekey with a change of names: the name that the certificate is to have
Request.newSans  likewise, the names of its subjectAltName
Request.target  revoke, query: the certificate that it is about
Request.identifiers  what the message states of its sender, by kind
Request.source  the client's address, or that of whatever passes its connection on, unless the listener knows that as a proxy; "" when it did not come over the network
Request.proxy  the proxy that passed it on, whose word source is; "" for none that a listener knows
Request.transport  how it came when not over the network: "file"
Request.received  when it came
Request.sha256  SHA-256 of the message as received, in hexadecimal; services are not told it
Request.partial  never while a request is judged: of what the gateway kept of it most is left out, since it was too much

Credential.kind  "tls-certificate", "message-signer", "mac-key", "password", "challenge", "device-certificate", "message-key" or "nested-signer"
Credential.id  a user's name, a MAC key's reference, a certificate's SHA-256; never a secret
Credential.proven  possession was shown, whatever it is worth
Credential.accepted  a stage before has accepted it
Credential.certificate  the certificate, where it is one

Device.name  its name: of its entry, or as a stage has found it
Device.known  it stands in the inventory, where a stage before has looked
Device.vendor  its vendor, of its entry
Device.identifiers  its identifiers by kind, as in device.identifiers["imei"]
Device.attributes  its attributes, as in device.attributes["site"]
Device.profiles  the profiles that it may have; empty for all

Grant.profile  the profile
Grant.backend  the CA backend of the profile
Grant.vendor  the vendor under whose CA the device authenticated
Grant.vouched  a registration authority asks in the device's place
Grant.notBefore  the first instant
Grant.notAfter  the last instant

Name.dn  the whole name, as RFC 4514 writes it
Name.commonName  the CN; "" where there are several
Name.serialNumber  the serialNumber; "" where there are several
Name.organizationName  each O
Name.organizationalUnitName  each OU
Name.attributes  all attributes, by their long names or OIDs, as in attributes["countryName"]

SANs.dns  DNS names
SANs.ip  IP addresses
SANs.email  e-mail addresses
SANs.uri  URIs
SANs.other  how many of other kinds
SANs.malformed  there is one that does not parse, of which nothing stands here

Key.type  "P-256", "RSA-3072", "Ed25519", ...
Key.algorithm  "EC", "RSA" or "Ed25519"
Key.bits  of the modulus, or the curve
Key.sha256  of the SubjectPublicKeyInfo, hexadecimal

Certificate.subject  whose it is
Certificate.issuer  who issued it
Certificate.serial  serial number, hexadecimal
Certificate.sans  the names of its subjectAltName
Certificate.notBefore  its first instant
Certificate.notAfter  its last instant
Certificate.sha256  of its DER, hexadecimal; "" where there is no certificate

Target.issuer  its issuer, as RFC 4514 writes it
Target.serial  its serial number, hexadecimal
Target.reason  why it is to be revoked: a CRLReason's number
`
