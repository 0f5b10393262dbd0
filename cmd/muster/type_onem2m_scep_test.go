package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/plugins/backend"
)

// otherMEF is a configuration with one endpoint, ran, of a protocol.
func otherMEF(protocol, profile, pipelines string) string {
	return `version: 1
listeners:
  tls: {address: 127.0.0.1:0, tls: {max: "1.2", suites: [TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256]}}
  fast: {address: 127.0.0.1:0, tls: {}}
backends:
  local: {plugin: local, config: {dir: ca, issuers: {m2m: {key: RSA-2048}}}}
profiles:
  any: {backend: local, ` + profile + `}
endpoints:
  ran:
    protocol: ` + protocol + `
    listeners: [tls]
    profile: any
` + pipelines
}

// judgedOtherMEF is what is said of it, until backends are asked.
func judgedOtherMEF(t *testing.T, deps stageDeps, text string) error {
	t.Helper()
	c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
	if err == nil {
		_, err = makeEndpoints(c, deps)
	}
	return err
}

func wantOtherMEF(t *testing.T, deps stageDeps, text, want string) {
	t.Helper()
	switch err := judgedOtherMEF(t, deps, text); {
	case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "muster.yaml:")):
		t.Errorf("%s\n%v, want %q", text, err, want)
	}
}

// What `scep: {type: onem2m-mef}` rules out (oneM2M TS-0003 clause 8.3.6.3).
func TestMEFSCEPConfig(t *testing.T) {
	const (
		profile    = `issuer: m2m, keys: ["RSA>=2048"], key-usage: [digitalSignature, keyEncipherment], subject: "CN={{device.name}}"`
		vendor     = "{vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}}"
		end        = "{inventory: {}}, {registration: {}}]\n"
		enroll     = "    enroll: [" + vendor + ", " + end
		unknown    = "each client shows who it is"
		unheld     = "`registration: {}` has to be on every way"
		claimed    = "inventory: by: it goes by what the request says of itself"
		renewal    = "a certificate is renewed by itself alone"
		challenges = "scep.challenges"
	)
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	write(t, deps.Dir, challenges, "{sha256}n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=\n")
	kind := "    scep: {type: onem2m-mef}\n"
	for pipelines, want := range map[string]string{
		enroll: "",
		"    enroll: [{challenge: {issued: true}}, " + end:                                                                         "",
		"    enroll: [{device-password: {by: [subject.CN]}}, " + end:                                                               "",
		"    enroll: [{anyOf: [" + vendor + ", {challenge: {issued: true}}]}, " + end:                                              "",
		"    enroll: [" + vendor + ", {names: {}}]\n":                                                                              unheld,
		"    enroll: [{anyOf: [[" + vendor + ", {registration: {}}], {challenge: {issued: true}}]}, {names: {}}]\n":                unheld,
		"    enroll: [{vendor-ca: {cas: [ca.pem]}}, {inventory: {by: [subject.CN]}}, {registration: {}}]\n":                        unknown,
		"    enroll: [{challenge: {file: scep.challenges}}, {inventory: {by: [subject.CN]}}, {registration: {}}]\n":                unknown,
		"    enroll: [{challenge: {issued: true}}, {inventory: {by: [subject.CN]}}, {registration: {}}]\n":                         claimed,
		"    enroll: [{challenge: {issued: true}}, {inventory: {by: [device, san.uri]}}, {registration: {}}]\n":                    claimed,
		"    enroll: [" + vendor + ", {ra: {cas: [ca.pem]}}, " + end:                                                               "ra: the identifier is that of the client itself",
		"    enroll: [" + vendor + ", {names: {wildcards: true}}, " + end:                                                          "names: wildcards: its certificates have none",
		"    enroll: [{challenge: {issued: true, file: scep.challenges}}, " + end:                                                  unknown,
		"    enroll: [{challenge: {issued: true, secrets: {a: \"{sha256}n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=\"}}}, " + end: unknown,
		"    enroll: [{challenge: {issued: true, webhook: {url: \"https://mdm.example/check\"}}}, " + end:                          unknown,
		"    enroll: [{device-password: {by: [subject.CN], uses: 2}}, " + end:                                                      unknown,
		"    enroll: [{anyOf: [" + vendor + ", {challenge: {file: scep.challenges}}]}, " + end:                                     unknown,
		enroll + "    renew: [{own-certificate: {}}, " + end:                                                                       "",
		enroll + "    renew: [{own-certificate: {}}, {inventory: {}}]\n":                                                           unheld,
		enroll + "    renew: [" + vendor + ", " + end:                                                                              renewal,
		enroll + "    rekey: [{anyOf: [{own-certificate: {}}, " + vendor + "]}, " + end:                                            renewal,
	} {
		wantOtherMEF(t, deps, otherMEF("scep", profile, pipelines+kind), want)
		if want == unknown || want == renewal {
			wantOtherMEF(t, deps, otherMEF("scep", profile, strings.ReplaceAll(pipelines, "{registration: {}}]", "{names: {}}]")), "")
		}
	}
	for profile, want := range map[string]string{
		`issuer: m2m, keys: ["RSA>=2048"]`: "the subject must not name another",
		`issuer: m2m, keys: ["RSA>=2048"], subject: "CN={{device.name}}", key-usage: [keyEncipherment]`:                "its certificates are for digitalSignature",
		`issuer: m2m, keys: ["RSA>=2048"], subject: "CN={{device.name}}", key-usage: [digitalSignature, keyAgreement]`: "its certificates are for digitalSignature",
		`issuer: m2m, keys: [P-256], subject: "CN={{device.name}}"`:                                                    "certifies no RSA keys",
	} {
		wantOtherMEF(t, deps, otherMEF("scep", profile, enroll+kind), want)
	}
}

// What `est: {type: onem2m-mef-password}` rules out.
func TestMEFPasswordConfig(t *testing.T) {
	const (
		profile = `issuer: ec, keys: [P-256], subject: "CN={{device.name}}"`
		end     = "{registration: {}}]\n"
		enroll  = "    enroll: [{device-password: {}}, {inventory: {}}, " + end
		login   = "each client logs in with the password of its own entry"
		user    = "{password: {file: users}}"
		renewal = "a certificate is renewed by itself alone"
	)
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	write(t, deps.Dir, "users", "anna:{sha256}n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=\n")
	kind := "    est: {type: onem2m-mef-password}\n"
	for pipelines, want := range map[string]string{
		enroll: "",
		"    enroll: [{device-password: {}}, " + end:                                                                  "",
		"    enroll: [" + user + ", {inventory: {by: [user]}}, " + end:                                                "",
		"    enroll: [" + user + ", {names: {}}]\n":                                                                   "`registration: {}` has to be on every way",
		"    enroll: [" + user + ", {inventory: {by: [subject.CN]}}, " + end:                                          login,
		"    enroll: [{device-password: {}}, {inventory: {by: [subject.CN]}}, " + end:                                 "inventory: by: it goes by what the request says of itself",
		"    enroll: [{anyOf: [{device-password: {}}, {approval: {}}]}, {inventory: {}}, " + end:                      login,
		"    enroll: [{vendor-ca: {cas: [ca.pem], serial: subject.CN}}, {device-password: {}}, " + end:                "leave the stage vendor-ca out",
		"    enroll: [{device-password: {}}, {client-certificate: {cas: [ca.pem]}}, " + end:                           "leave the stage client-certificate out",
		enroll + "    renew: [{own-certificate: {}}, " + end:                                                          "",
		enroll + "    renew: [{own-certificate: {}}]\n":                                                               "`registration: {}` has to be on every way",
		enroll + "    renew: [{device-password: {}}, " + end:                                                          renewal,
		enroll + "    rekey: [{device-password: {}}, {own-certificate: {kinds: [tls-certificate, password]}}, " + end: renewal,
	} {
		wantOtherMEF(t, deps, otherMEF("est", profile, pipelines+kind), want)
	}
	wantOtherMEF(t, deps, strings.Replace(otherMEF("est", profile, enroll+kind), "listeners: [tls]", "listeners: [fast]", 1), "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256")
	wantOtherMEF(t, deps, otherMEF("est", `issuer: ec, keys: [P-384], subject: "CN={{device.name}}"`, enroll+kind), "P-256 keys and no others")
	for section, want := range map[string]string{
		"{type: onem2m-mef-password, challenge: supplied}": "challenge: it is for `type: onem2m-mef` alone",
		"{type: onem2m-mef-password, csrattrs: none}":      "csrattrs: none: an MEF names the identity attribute",
		"{type: onem2m-mef-passwrd}":                       "did you mean",
	} {
		wantOtherMEF(t, deps, otherMEF("est", profile, enroll+"    est: "+section+"\n"), want)
	}
}

// The CA of an MEF has constraints for DNS names, and none that what is registered could not be verified under.
func TestMEFConstraints(t *testing.T) {
	const (
		any    = "    enroll: [{device-password: {}}, {registration: {}}]\n"
		none   = "has no name constraints that permit DNS names"
		dns    = "{permitted: {dns: [m2m.example.com]}}"
		both   = "{permitted: {dns: [m2m.example.com], uri: [m2m.example.com]}}"
		est    = "    est: {type: onem2m-mef-password}\n"
		aeID   = "such as //m2m.example.com/S98821, nobody can verify below it"
		nodeID = "such as urn:gsma:imei:90420156-025763-0, nobody can verify below it"
	)
	deps := testDeps(t)
	cas := map[string][]backend.CA{}
	for name, constraints := range map[string]string{"none": "", "dns": ", name-constraints: " + dns, "both": ", name-constraints: " + both, "excluding": ", name-constraints: {permitted: {dns: [m2m.example.com]}, excluded: {uri: [example.org]}}", "other": ", name-constraints: {excluded: {ip: [\"::/0\"]}}"} {
		ca := local.New(local.Options{})
		if err := ca.Configure(t.Context(), []byte("dir: "+filepath.Join(t.TempDir(), "ca")+"\nissuers: {rsa: {bits: 2048}, m2m: {key: P-256"+constraints+"}}")); err != nil {
			t.Fatal(err)
		}
		defer ca.Close()
		all, err := ca.CACertificates(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cas[name] = all
	}
	// Constraints above the certificate that signs are not those of "the certificate used to sign".
	above, bare := cas["dns"][0], cas["none"][0]
	for i, ca := range cas["dns"] {
		if ca.Name == "m2m" {
			above = ca
		}
		if cas["none"][i].Name == "m2m" {
			bare = cas["none"][i]
		}
	}
	cas["above"] = []backend.CA{{Name: "m2m", Chain: [][]byte{bare.Chain[0], above.Chain[1]}}}
	registration := func(settings string) string {
		return strings.Replace(any, "registration: {}", "registration: {"+settings+"}", 1)
	}
	for _, c := range []struct{ ca, pipelines, est, want string }{
		{"dns", any, est, ""},
		{"none", any, est, none},
		{"other", any, est, none},
		{"above", any, est, none},
		{"none", any, "    est: {type: onem2m-mef-password, allow: [unconstrained-ca]}\n", ""},
		{"none", strings.Replace(any, "{registration: {}}", "{names: {}}", 1), "", ""},
		{"both", registration("types: [cse-id]"), est, ""},
		{"excluding", registration("types: [ae-id]"), est, aeID},
		{"both", registration("types: [cse-id, ae-id]"), est, aeID},
		{"both", registration("types: [cse-id, ae-id]"), "    est: {type: onem2m-mef-password, allow: [unconstrained-ca]}\n", aeID},
		{"both", registration("types: [node-id]"), est, nodeID},
		{"both", registration(`types: [ae-id], ae-id-form: "m2m:{{value}}"`), est, ""},
	} {
		cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(otherMEF("est", `issuer: m2m, keys: [P-256], subject: "CN={{device.name}}"`, c.pipelines+c.est)))
		if err != nil {
			t.Fatal(err)
		}
		err = (&Runtime{cfg: cfg, cas: map[string][]backend.CA{"local": cas[c.ca]}}).constrained("ran", "any")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %s%s: %v, want %q", c.ca, c.pipelines, c.est, err, c.want)
		}
	}
}
