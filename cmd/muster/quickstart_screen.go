package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/scep"
)

// scepclient is the release of micromdm's client that the screen's commands run.
const scepclient = "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0"

// reached is where the clients of a protocol enrol.
type reached struct {
	endpoint string // "" for nowhere
	path     string
	plain    bool // on the plain listener
}

// roots of the protocols' paths: with a name behind it, and for the default endpoint.
var protocolPaths = map[gateway.Protocol][2]string{
	gateway.CMP:  {"/.well-known/cmp/p/", "/.well-known/cmp"},
	gateway.EST:  {"/.well-known/est/", "/.well-known/est"},
	gateway.SCEP: {"/scep/", "/scep"},
	gateway.MDM:  {"/ota/", "/ota"},
}

// where finds an endpoint of the protocol: on the plain listener where it may be, and a default one where there is one.
func (c *Config) where(protocol gateway.Protocol) reached {
	for _, plain := range []bool{true, false} {
		found := reached{plain: plain}
		listener := c.listener(!plain)
		for _, name := range byName(c.Endpoints) {
			e := c.Endpoints[name]
			if e.Protocol != protocol || listener == "" || !slices.Contains(e.Listeners, listener) {
				continue
			}
			if e.Default {
				found.endpoint, found.path = name, protocolPaths[protocol][1]
				break
			}
			if found.endpoint == "" {
				found.endpoint, found.path = name, protocolPaths[protocol][0]+name
			}
		}
		if found.endpoint != "" {
			return found
		}
	}
	return reached{}
}

// screen is what the first minute needs: what listens where, and commands that work as printed.
func (q quickstart) screen(w io.Writer, cfg *Config, settings []setting, by reach, took time.Duration) {
	value := map[string]string{}
	for _, s := range settings {
		value[s.name] = s.value
	}
	fmt.Fprintf(w, "muster %s, ready in %.2f s. Ctrl-C stops it.\n\n", version(), took.Seconds())
	line := func(what, where string) {
		if where != "" {
			fmt.Fprintf(w, "  %-8s %s\n", what, where)
		}
	}
	est, cmp, old := cfg.where(gateway.EST), cfg.where(gateway.CMP), cfg.where(gateway.SCEP)
	url := func(r reached) string {
		base := value[map[bool]string{true: "MUSTER_HTTP", false: "MUSTER_HTTPS"}[r.plain]]
		if r.endpoint == "" || base == "" {
			return ""
		}
		return base + r.path
	}
	line("EST", url(est))
	line("CMP", url(cmp))
	line("SCEP", url(old))
	if v := value["MUSTER_HTTP"]; v != "" {
		paths := "  (/healthz, /readyz)"
		if m := cfg.Metrics; m != nil && slices.Contains(m.Listeners, cfg.listener(false)) {
			paths = "  (/healthz, /readyz, /metrics)"
		}
		line("HTTP", v+paths)
	}
	line("CA", value["MUSTER_CA"])
	line("config", q.config())

	if old.endpoint != "" {
		fmt.Fprint(w, legacyNote(old.endpoint, section(cfg.Endpoints[old.endpoint].SCEP).Legacy))
	}
	var blocks []string
	if url(est) != "" && value["MUSTER_EST_PASSWORD"] != "" {
		title, check := "EST, with curl", ""
		if crl := cfg.crlOf(est.endpoint); crl != "" && value["MUSTER_HTTP"] != "" {
			title, check = title+"; and whether the certificate is still good, by the CRL", crlCommands(crl)
		}
		blocks = append(blocks, title+":\n\n"+indent(enrolCommands(est.path)+renewCommands(est.path)+check))
	}
	if url(cmp) != "" && cmp.plain && value["MUSTER_CMP_SECRET"] != "" {
		title := "CMP, with openssl"
		if by.files && value["MUSTER_VENDOR_CA_DIR"] != "" {
			title += " (or a vendor's certificate in place of the secret, once its CA lies in $MUSTER_VENDOR_CA_DIR)"
		}
		blocks = append(blocks, title+":\n\n"+indent(cmpCommands(cmp.path, by.roots)))
	}
	if url(old) != "" && old.plain && value["MUSTER_SCEP_CHALLENGE"] != "" {
		blocks = append(blocks, by.scep(old.path))
	}
	if len(blocks) > 0 {
		fmt.Fprintf(w, "\nEnrol devices and renew their certificates, in a second shell%s:\n\n%s\n%s", by.where, indent(by.settings), strings.Join(blocks, "\n"))
	}
	fmt.Fprintf(w, "\nWhat happened, and why:\n\n  %s ls%s\n  %s explain ID%s\n\nNext: edit muster.yaml, which explains itself%s, and have this gateway read it again, all of it or nothing:\n\n  %s reload%s\n",
		by.self, by.data, by.self, by.data, by.edit, by.self, by.data)
}

// reach is how whoever reads the screen gets at the gateway: it differs from the host of a container.
type reach struct {
	where    string // the second shell
	settings string // commands that set the variables of quickstart.env
	roots    string // $MUSTER_CA, then
	files    bool   // whether the data directory can be written to
	self     string // how this program is called
	data     string // its flag --data, where it needs one
	edit     string // how muster.yaml is edited, where that is not plain
	scep     func(path string) string
}

// onThisHost is a shell of the gateway's own machine.
func onThisHost(q quickstart) reach {
	data := " --data " + shellQuote(q.data)
	if here, err := filepath.Abs(defaultData); err == nil && here == q.data {
		data = ""
	}
	return reach{
		settings: ". " + shellQuote(q.env()) + "\n", roots: q.roots(), files: true, self: invocation(), data: data,
		scep: func(path string) string {
			return "SCEP, with scepclient, which Go fetches:\n\n" + indent(scepCommands(path))
		},
	}
}

// legacyNote tells what an endpoint lets in that it had better not.
func legacyNote(endpoint string, legacy []scep.Legacy) string {
	names := map[scep.Legacy]string{scep.LegacyDES: "DES", scep.LegacyTripleDES: "3DES", scep.LegacySHA1: "SHA-1"}
	var let []string
	for _, l := range legacy {
		let = append(let, names[l])
	}
	if len(let) == 0 {
		return ""
	}
	return fmt.Sprintf("\nSCEP's legacy policy is on: %s are let in, so that scepclient works. To switch it off, delete the line\n\"legacy\" of the endpoint %s in muster.yaml; \"reload\" has the running gateway read it again.\n",
		strings.Join(let, " and "), endpoint)
}

// invocation is how this program was called.
func invocation() string {
	switch self := os.Args[0]; {
	case strings.Contains(self, "/go-build"): // by go run, whose binary is gone afterwards
		return "go run ./cmd/muster"
	case strings.ContainsAny(self, " '\"$\\"):
		return shellQuote(self)
	default:
		return self
	}
}

// enrolCommands make a key and a request, and have it certified.
func enrolCommands(path string) string {
	return `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key \
  -subj /CN=device-0001 -outform DER | openssl base64 -A > device.csr
curl -sS --fail-with-body --cacert "$MUSTER_CA" -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" \
  -H 'Content-Type: application/pkcs10' --data-binary @device.csr "$MUSTER_HTTPS` + path + `/simpleenroll" \
  | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out device.crt
openssl x509 -in device.crt -noout -subject -serial -enddate
`
}

// renewCommands have the same request certified again, by the certificate.
func renewCommands(path string) string {
	return `curl -sS --fail-with-body --cacert "$MUSTER_CA" --cert device.crt --key device.key \
  -H 'Content-Type: application/pkcs10' --data-binary @device.csr "$MUSTER_HTTPS` + path + `/simplereenroll" \
  | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out renewed.crt
openssl x509 -in renewed.crt -noout -subject -serial -enddate
`
}

// crlOf is BACKEND/NAME of the CRL of an endpoint's certificates, "" where the plain listener does not serve it, or where only
// the CA knows its own name.
func (c *Config) crlOf(endpoint string) string {
	e, listener := c.Endpoints[endpoint], c.listener(false)
	if e == nil || c.Distribution == nil || !slices.Contains(c.Distribution.Listeners, listener) {
		return ""
	}
	p := c.Profiles[e.Profile]
	switch {
	case p == nil:
		return ""
	case p.Issuer != "":
		return p.Backend + "/" + p.Issuer
	case c.Backends[p.Backend].Plugin == "local":
		return p.Backend + "/ec"
	}
	return ""
}

// crlCommands fetch the CRL and its issuer's certificate, and verify by them.
func crlCommands(crl string) string {
	return `curl -sS --fail "$MUSTER_HTTP/ca/` + crl + `.crt" | openssl x509 -inform DER -out issuing.crt
curl -sS --fail "$MUSTER_HTTP/crl/` + crl + `.crl" | openssl crl -inform DER -out issuing.crl
openssl verify -crl_check -CAfile "$MUSTER_CA" -untrusted issuing.crt -CRLfile issuing.crl device.crt
`
}

// cmpCommands enrol with the shared secret, then update the certificate and its key, signed by it.
func cmpCommands(path, roots string) string {
	path = strings.TrimPrefix(path, "/")
	trusted, copied := `"$MUSTER_CA"`, ""
	if strings.ContainsAny(roots, ", \t") { // openssl cmp would take it for a list of files
		trusted, copied = "roots.pem", "cp \"$MUSTER_CA\" roots.pem\n"
	}
	return copied + `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cmp.key
openssl cmp -cmd ir -server "$MUSTER_HTTP" -path ` + path + ` -trusted ` + trusted + ` \
  -ref "$MUSTER_CMP_REF" -secret "pass:$MUSTER_CMP_SECRET" \
  -newkey cmp.key -subject /CN=device-0002 -certout cmp.crt
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cmp-renewed.key
openssl cmp -cmd kur -server "$MUSTER_HTTP" -path ` + path + ` -trusted ` + trusted + ` \
  -cert cmp.crt -key cmp.key -newkey cmp-renewed.key -certout cmp-renewed.crt
openssl x509 -in cmp-renewed.crt -noout -subject -serial -enddate
`
}

// scepCommands enrol with the challenge; the second call finds the certificate, and renews it.
func scepCommands(path string) string {
	run := "go run " + scepclient + ` -server-url "$MUSTER_HTTP` + path + `" \
  -private-key scep.key -certificate scep.crt -cn device-0003`
	return run + ` -challenge "$MUSTER_SCEP_CHALLENGE"
` + run + `
openssl x509 -in scep.crt -noout -subject -serial -enddate
`
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
