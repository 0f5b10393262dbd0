package authz

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

func spki(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return der
}

// testKeys are SubjectPublicKeyInfos by name.
var testKeys = sync.OnceValue(func() map[string][]byte {
	all := make(map[string][]byte)
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		all[name] = spki(key.Public())
	}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		all[fmt.Sprintf("RSA-%d", bits)] = spki(key.Public())
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	all["Ed25519"] = spki(pub)
	all["garbage"] = []byte{0x30, 0x03, 1, 2, 3}
	return all
})

func TestKeys(t *testing.T) {
	for name, c := range map[string]struct {
		config  KeysConfig
		key     string
		pop     gateway.POP    // "" for signature
		vouched bool           // by a stage that knows RAs
		reason  gateway.Reason // "" when allowed
		note    string
	}{
		"default: P-256":                 {key: "P-256", note: "P-256, possession proven by signature"},
		"default: P-384":                 {key: "P-384"},
		"default: P-521":                 {key: "P-521"},
		"default: RSA-2048":              {key: "RSA-2048"},
		"default: Ed25519":               {key: "Ed25519"},
		"default: bound to the session":  {key: "P-256", pop: gateway.POPLinked, note: "tls-binding"},
		"listed exactly":                 {config: KeysConfig{Allowed: []string{"RSA-3072"}}, key: "RSA-3072"},
		"an RSA floor":                   {config: KeysConfig{Allowed: []string{"RSA>=2048"}}, key: "RSA-3072"},
		"on the RSA floor":               {config: KeysConfig{Allowed: []string{"RSA>=3072"}}, key: "RSA-3072"},
		"the lower of two floors":        {config: KeysConfig{Allowed: []string{"RSA>=2048", "RSA>=4096"}}, key: "RSA-2048"},
		"an RA vouches, allowed":         {config: KeysConfig{POP: []string{"signature", "ra"}}, key: "P-256", pop: gateway.POPRA, vouched: true},
		"somebody vouches":               {config: KeysConfig{POP: []string{"signature", "ra"}}, key: "P-256", pop: gateway.POPRA, reason: gateway.NotAuthorized},
		"confirmed later, allowed":       {config: KeysConfig{POP: []string{"pending-confirm"}}, key: "P-256", pop: gateway.POPConfirm},
		"no key":                         {key: "none", reason: gateway.BadTemplate, note: "no public key"},
		"a key that does not parse":      {key: "garbage", reason: gateway.BadTemplate},
		"a curve that is not read":       {key: "P-224", reason: gateway.BadAlgorithm},
		"another curve":                  {config: KeysConfig{Allowed: []string{"P-384"}}, key: "P-256", reason: gateway.BadTemplate, note: "allowed are P-384"},
		"another RSA size":               {config: KeysConfig{Allowed: []string{"RSA-3072"}}, key: "RSA-2048", reason: gateway.BadTemplate, note: `"RSA-2048"`},
		"a larger RSA size than listed":  {config: KeysConfig{Allowed: []string{"RSA-2048"}}, key: "RSA-3072", reason: gateway.BadTemplate},
		"below the RSA floor":            {config: KeysConfig{Allowed: []string{"RSA>=3072"}}, key: "RSA-2048", reason: gateway.BadTemplate},
		"another algorithm: RSA":         {config: KeysConfig{Allowed: []string{"P-256", "Ed25519"}}, key: "RSA-3072", reason: gateway.BadAlgorithm},
		"another algorithm: EC":          {config: KeysConfig{Allowed: []string{"RSA>=3072"}}, key: "P-256", reason: gateway.BadAlgorithm},
		"another algorithm: Ed25519":     {config: KeysConfig{Allowed: []string{"P-256"}}, key: "Ed25519", reason: gateway.BadAlgorithm},
		"on the block list":              {config: KeysConfig{Blocklist: "block"}, key: "P-256", reason: gateway.BadTemplate, note: "blocklist"},
		"not on the block list":          {config: KeysConfig{Blocklist: "block"}, key: "P-384"},
		"no proof":                       {key: "P-256", pop: gateway.POPNone, reason: gateway.BadPOP, note: `"none"`},
		"an RA vouches":                  {key: "P-256", pop: gateway.POPRA, vouched: true, reason: gateway.BadPOP},
		"confirmed later":                {key: "P-256", pop: gateway.POPConfirm, reason: gateway.BadPOP},
		"no session where one is wanted": {config: KeysConfig{POP: []string{"tls-binding"}}, key: "P-256", reason: gateway.BadPOP},
		"a proof of no kind":             {key: "P-256", pop: "hearsay", reason: gateway.BadPOP},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "block", []byte("# leaked\n"+hexSum(testKeys()["P-256"])+"\n"))
			s, err := NewKeys(c.config, dir)
			if err != nil {
				t.Fatal(err)
			}
			if c.pop == "" {
				c.pop = gateway.POPSignature
			}
			r := &gateway.Request{PublicKey: testKeys()[c.key], POP: c.pop}
			g := &gateway.Grant{PublicKey: r.PublicKey}
			if c.vouched {
				g.Vouch()
			}
			v := s.Decide(context.Background(), r, g)
			if c.reason == "" {
				expect(t, v, gateway.Allow, "", c.note)
			} else {
				expect(t, v, gateway.Deny, c.reason, c.note)
			}
			endedDenies(t, s, r)
		})
	}
}

// A client that has not bound its request is told how, but an RA, which cannot.
func TestKeysWantTheConnection(t *testing.T) {
	decide := func(pop []string, vouched bool) string {
		s, err := NewKeys(KeysConfig{POP: pop}, "")
		if err != nil {
			t.Fatal(err)
		}
		r := &gateway.Request{PublicKey: testKeys()["P-256"], POP: gateway.POPSignature}
		if slices.Contains(pop, "signature") {
			r.POP = gateway.POPRA
		}
		g := &gateway.Grant{PublicKey: r.PublicKey}
		if vouched {
			g.Vouch()
		}
		v := s.Decide(context.Background(), r, g)
		if v.Decision != gateway.Deny || v.Reason != gateway.BadPOP {
			t.Errorf("%v: %s %s", pop, v.Decision, v.Reason)
		}
		return v.Detail
	}
	got := decide([]string{"tls-binding"}, false)
	for _, want := range []string{"base64", "TLS 1.2: tls-unique", "TLS 1.3: tls-exporter", "challengePassword", "estIdentityLinking"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %s", got, want)
		}
	}
	if got := decide([]string{"tls-binding"}, true); !strings.Contains(got, "none is taken from a registration authority") {
		t.Errorf("to an RA: %q", got)
	}
	for _, pop := range [][]string{{"signature"}, {"signature", "tls-binding"}, {"pending-confirm"}} {
		if got := decide(pop, false); got != "possession of the key is not proven as required" {
			t.Errorf("%v: %q", pop, got)
		}
	}
}

func TestKeysOfTheGrant(t *testing.T) {
	s, err := NewKeys(KeysConfig{}, "")
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{PublicKey: testKeys()["P-256"], POP: gateway.POPSignature}
	for _, key := range []string{"P-384", "none"} {
		v := s.Decide(context.Background(), r, &gateway.Grant{PublicKey: testKeys()[key]})
		expect(t, v, gateway.Deny, gateway.BadPOP, "not the one")
	}
}

func TestKeysToBeMade(t *testing.T) {
	decide := func(s *Keys, algorithm string) (gateway.Verdict, *gateway.Grant) {
		g := &gateway.Grant{}
		return s.Decide(context.Background(), &gateway.Request{KeyGen: &gateway.KeyGen{Algorithm: algorithm}, POP: gateway.POPNone}, g), g
	}
	s, err := NewKeys(KeysConfig{Allowed: []string{"P-256", "P-384", "RSA>=3072"}, Generate: []string{"P-256", "RSA-3072"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, reason := range map[string]gateway.Reason{
		"": "", "P-256": "", "RSA-3072": "", gateway.AnyRSA: "",
		"P-384": gateway.BadAlgorithm, "RSA-4096": gateway.BadAlgorithm, "RSA-2048": gateway.BadAlgorithm, "RSA-x": gateway.BadAlgorithm,
		"Ed25519": gateway.BadAlgorithm, "DSA": gateway.BadAlgorithm, "RSA>=3072": gateway.BadAlgorithm,
	} {
		v, _ := decide(s, algorithm)
		if reason == "" {
			expect(t, v, gateway.Allow, "", "made")
		} else {
			expect(t, v, gateway.Deny, reason, algorithm)
			if !strings.Contains(v.Detail, "but P-256, RSA-3072") {
				t.Errorf("the client is told %q", v.Detail)
			}
		}
	}
	// Nothing is made unless the configuration says so, whatever is allowed.
	if s, err = NewKeys(KeysConfig{}, ""); err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []string{"", "P-256"} {
		v, _ := decide(s, algorithm)
		expect(t, v, gateway.Deny, gateway.NotAuthorized, "make none")
	}
	// What a profile certifies is a bound, and no permission.
	for _, judged := range []bool{false, true} {
		if s, err = NewProfileKeys([]string{"P-256", "RSA>=3072"}, judged); err != nil {
			t.Fatal(err)
		}
		for algorithm, reason := range map[string]gateway.Reason{"": "", "P-256": "", "RSA-4096": "", "RSA-2048": gateway.BadAlgorithm, "P-384": gateway.BadAlgorithm} {
			v, g := decide(s, algorithm)
			if want := (gateway.Grant{}); !reflect.DeepEqual(*g, want) || len(s.Generates()) > 0 {
				t.Errorf("%q: the profile lets keys be made", algorithm)
			}
			if reason == "" {
				expect(t, v, gateway.Allow, "", "made")
			} else {
				expect(t, v, gateway.Deny, reason, algorithm)
			}
		}
		if len(s.Generates()) > 0 {
			t.Error("a profile has keys made")
		}
	}
}

// That a certificate may be decrypted for a proof is what a stage says, not a profile.
func TestKeysToBeProvenLater(t *testing.T) {
	spki := testKeys()["P-256"]
	r := &gateway.Request{PublicKey: spki, POP: gateway.POPConfirm}
	own, err := NewKeys(KeysConfig{POP: []string{"pending-confirm"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	judged, err := NewProfileKeys(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	unjudged, err := NewProfileKeys(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stage  *Keys
		denied gateway.Reason
		allows bool
	}{{"stage", own, "", true}, {"profile, judged", judged, "", false}, {"profile", unjudged, gateway.BadPOP, false}} {
		g := &gateway.Grant{PublicKey: spki}
		v := c.stage.Decide(context.Background(), r, g)
		if v.Reason != c.denied {
			t.Errorf("%s: %+v", c.name, v)
		}
		if untouched := reflect.DeepEqual(*g, gateway.Grant{PublicKey: spki}); untouched == c.allows {
			t.Errorf("%s: allows decryption is %v", c.name, !untouched)
		}
	}
}

func TestKeysConfigErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "block", []byte("\nno hash\n"))
	for want, c := range map[string]KeysConfig{
		`"P-224" is not known`:              {Allowed: []string{"P-224"}},
		`"rsa-2048" is not known`:           {Allowed: []string{"rsa-2048"}},
		`"RSA-1024": RSA keys of 2048`:      {Allowed: []string{"RSA-1024"}},
		`"RSA>=16384": RSA keys of 2048`:    {Allowed: []string{"RSA>=16384"}},
		`"RSA-": RSA keys`:                  {Allowed: []string{"RSA-"}},
		"pop: none cannot be allowed":       {POP: []string{"none"}},
		`pop: "hearsay"`:                    {POP: []string{"hearsay"}},
		"generate: \"RSA-8192\" is no kind": {Generate: []string{"RSA-8192"}},
		"generate: \"RSA>=3072\" is no":     {Generate: []string{"RSA>=3072"}},
		"generate: \"p-256\" is no kind":    {Generate: []string{"p-256"}},
		"generate: P-384 is not among":      {Allowed: []string{"P-256", "RSA>=3072"}, Generate: []string{"P-256", "RSA-3072", "P-384"}},
		"generate: RSA-2048 is not among":   {Allowed: []string{"RSA>=3072"}, Generate: []string{"RSA-2048"}},
		"generate: P-256 stands twice":      {Generate: []string{"P-256", "P-256"}},
		"absent":                            {Blocklist: "absent"},
		"block: line 2":                     {Blocklist: "block"},
	} {
		_, err := NewKeys(c, dir)
		wantError(t, err, want)
	}
	if _, err := NewKeys(KeysConfig{Allowed: []string{"RSA>=8192"}}, ""); err != nil {
		t.Error(err)
	}
	if err := func() error { _, err := NewKeys(KeysConfig{Blocklist: strings.Repeat("x", 5000)}, dir); return err }(); err == nil {
		t.Error("a block list that cannot be read is an empty one")
	}
}
