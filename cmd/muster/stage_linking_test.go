package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// Only EST's requests can be bound to a TLS connection, and an RA asks over EST as well.
func TestLinkingConfig(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	const want = "endpoints.ran.enroll: keys: pop: tls-binding: CMP requests are not bound to a TLS connection"
	cmp := func(keys string) string { return raConfig("    enroll: [approval: {}, names: {}, " + keys + "]\n") }
	est := func(stages string) string { return orderConfig("      - approval: {}\n      - names: {}\n" + stages) }
	// behind has TLS end at a proxy in front of the endpoint's listeners, of which there may be another.
	behind := func(other, stages string) string {
		return strings.NewReplacer("tls: {address: 127.0.0.1:0, tls: {}}", "tls: {address: 127.0.0.1:0, proxies: [{name: edge, addresses: [127.0.0.2]}]}"+other,
			"listeners: [tls]", map[bool]string{true: "listeners: [tls]", false: "listeners: [tls, other]"}[other == ""]).Replace(est(stages))
	}
	const proxied = "endpoints.ran.enroll: keys: pop: tls-binding: TLS ends at the proxies"
	for text, want := range map[string]string{
		cmp("keys: {pop: [tls-binding]}"):                      want,
		cmp("anyOf: [keys: {}, keys: {pop: [tls-binding]}]"):   want,
		cmp("keys: {pop: [tls-binding, signature]}"):           "",
		cmp("keys: {pop: [tls-binding, ra]}"):                  "",
		cmp("keys: {}"):                                        "",
		est("      - keys: {pop: [tls-binding]}\n"):            "",
		behind("", "      - keys: {pop: [tls-binding]}\n"):     proxied,
		behind("", "      - keys: {pop: [tls-binding, ra]}\n"): "",
		behind("\n  other: {address: 127.0.0.1:0, proxies: [{name: edge, addresses: [127.0.0.3]}]}", "      - keys: {pop: [tls-binding]}\n"):          proxied,
		behind("\n  other: {address: 127.0.0.1:0, tls: {}, proxies: [{name: edge, addresses: [127.0.0.3]}]}", "      - keys: {pop: [tls-binding]}\n"): "",
		est("      - ra: {cas: [ca.pem]}\n"):                                                  "",
		est("      - ra: {cas: [ca.pem], nested: true}\n"):                                    "the stage ra looks at nested-signer, which EST requests do not carry",
		est("      - anyOf: [[ra: {cas: [ca.pem]}, keys: {}], keys: {pop: [tls-binding]}]\n"): "",
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v\nwant %q", text, err, want)
		}
	}
}
