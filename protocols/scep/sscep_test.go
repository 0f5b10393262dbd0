//go:build sscep

package scep

import (
	"strings"
	"testing"
)

// sscep is in no Debian package, so that its tests run by a tag only. Build it from https://github.com/certnanny/sscep, version
// 0.10 (cmake, gcc and libssl-dev are needed), and put it on the PATH:
//
//	cmake -S sscep -B build && cmake --build build
//	PATH=$PWD/build:$PATH go test -tags sscep -run Sscep ./protocols/scep

// The recipe of docs/scep.md works as it stands there.
func TestSscepRecipe(t *testing.T) {
	b := newBench(t, Config{})
	for _, script := range recipes(t, "sscep") {
		b.must(t, script)
	}
	if got := b.asked(); got != "enroll message-key challenge, rekey message-signer" {
		t.Errorf("the gateway was asked for %s", got)
	}
}

// What sscep can send: each pair of cipher and digest is answered, if not with a certificate then with badAlg.
func TestSscepMatrix(t *testing.T) {
	b := newBench(t, Config{Legacy: []Legacy{LegacyDES, LegacyTripleDES, LegacySHA1}})
	b.must(t, `printf 'openssl_conf=o\n[o]\nproviders=p\n[p]\ndefault=d\nlegacy=d\n[d]\nactivate=1\n' > legacy.cnf
		printf '[req]\ndistinguished_name=d\nattributes=a\nprompt=no\n[d]\nCN=device-0003\n[a]\nchallengePassword=%s\n' "$MUSTER_SCEP_CHALLENGE" > req.cnf
		openssl req -new -newkey rsa:2048 -nodes -keyout k.pem -config req.cnf -out r.pem
		sscep getca -u "$MUSTER_HTTP/scep" -c ca.pem`)
	for _, cipher := range []string{"des", "3des", "blowfish", "aes128", "aes192", "aes256"} {
		for _, digest := range []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512"} {
			out, ok := b.run(t, `rm -f c.pem; OPENSSL_CONF=legacy.cnf sscep enroll -u "$MUSTER_HTTP/scep" -k k.pem -r r.pem -c ca.pem-0 -l c.pem -E `+cipher+" -S "+digest)
			want := cipher != "blowfish" && digest != "md5" && digest != "sha224"
			if ok != want || (!want && !strings.Contains(out, "Unrecognized or unsupported algorithm")) {
				t.Errorf("%s, %s: %s", cipher, digest, out)
			}
		}
	}
}
