package bundle

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// public is a key as it stands in the keyring now, and its fingerprint.
func (g *gpg) public(name string) (Keys, string) {
	g.t.Helper()
	data, err := exec.Command("gpg", "--homedir", g.dir, "--batch", "--export", name).Output()
	if err != nil {
		g.t.Fatal(err)
	}
	k, err := ReadKeys(data)
	if err != nil {
		g.t.Fatal(err)
	}
	return k, fingerprint(k[0])
}

// literal is a message that nobody signed.
func literal(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := packet.SerializeLiteral(unclosed{&buf}, true, "x", 0)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type unclosed struct{ *bytes.Buffer }

func (unclosed) Close() error { return nil }

// Signatures that are weak, of keys that are no longer good, of texts, or not of all that is there, are none.
func TestVerifyHostile(t *testing.T) {
	g := newGPG(t)
	content, now := packed(t), time.Now().Add(time.Minute) // keys are made in between
	_, office := g.key("office@example.com", "ed25519")
	_, weak := g.key("weak@example.com", "rsa1024")
	tarball := g.file("site.tar", content)
	count := 0
	sign := func(who string, args ...string) []byte {
		t.Helper()
		count++
		out := g.dir + "/signed" + strings.Repeat("x", count)
		g.must(append([]string{"--local-user", who, "--output", out}, append(args, tarball)...)...)
		return g.read(out)
	}
	refused := func(what, says string, file, signature []byte, trust Keys) {
		t.Helper()
		if _, _, err := Verify(file, signature, trust, now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const by, in, beside = "office@example.com", "--sign", "--detach-sign"
	plain, compressed := sign(by, "--compress-algo", "none", in), sign(by, in)
	for _, m := range [][]byte{plain, compressed} {
		if got, _, err := Verify(m, nil, office, now); err != nil || !bytes.Equal(got, content) {
			t.Fatal(err)
		}
	}
	evil := literal(t, bytes.Replace(content, []byte("version: 1"), []byte("version: 9"), 1))
	refused("literal data alone", "not signed", evil, nil, office)
	refused("literal data before", "not signed", append(bytes.Clone(evil), plain...), nil, office)
	for _, after := range [][]byte{evil, []byte("more"), plain, compressed} {
		refused("something behind", "not good", append(bytes.Clone(plain), after...), nil, office)
		// What stands behind the end of a compressed message is none of its data.
		if got, _, err := Verify(append(bytes.Clone(compressed), after...), nil, office, now); err == nil && !bytes.Equal(got, content) {
			t.Error("something behind the compressed message is taken")
		}
	}
	refused("a text", "of a text", sign(by, "--textmode", in), nil, office)
	refused("a text, detached", "", content, sign(by, "--textmode", beside), office)
	refused("clear text", "no signed bundle", sign(by, "--clear-sign"), nil, office)
	refused("SHA-1", "SHA-1", sign(by, "--digest-algo", "SHA1", in), nil, office)
	refused("SHA-1, detached", "SHA-1", content, sign(by, "--digest-algo", "SHA1", beside), office)
	refused("RSA-1024", "rsa length", sign("weak@example.com", in), nil, weak)
	refused("RSA-1024, detached", "rsa length", content, sign("weak@example.com", beside), weak)
	refused("an empty signature", "unknown", content, []byte{}, office)
	early := time.Now().Add(-time.Hour).UTC().Format("20060102T150405")
	_, older := g.key("older@example.com", "ed25519", "--faked-system-time", early)
	refused("a signature that has expired", "expired", content,
		sign("older@example.com", "--faked-system-time", early, "--default-sig-expire", "seconds=10", beside), older)

	// A subkey's signature is the key's, until it is revoked; so is the key.
	_, fpr := g.public(by)
	g.must("--quick-add-key", fpr, "ed25519", "sign", "1d")
	bySub, bySubToo := sign(by, in), sign(by, beside)
	with, _ := g.public(by)
	if _, signer, err := Verify(bySub, nil, with, now); err != nil || signer != fpr {
		t.Errorf("a subkey: %s, %v", signer, err)
	}
	cmd := exec.Command("gpg", "--homedir", g.dir, "--pinentry-mode", "loopback", "--passphrase", "", "--no-tty", "--command-fd", "0", "--edit-key", fpr)
	cmd.Stdin = strings.NewReader("key 1\nrevkey\ny\n0\n\ny\nsave\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	without, _ := g.public(by)
	refused("a revoked subkey", "no valid signing", bySub, nil, without)
	refused("a revoked subkey, detached", "no valid signing", content, bySubToo, without)
	if _, _, err := Verify(plain, nil, without, now); err != nil {
		t.Errorf("the key beside its revoked subkey: %v", err)
	}
	g.must("--import", g.file("rev.asc", bytes.Replace(g.read(g.dir+"/openpgp-revocs.d/"+fpr+".rev"), []byte(":-----BEGIN"), []byte("-----BEGIN"), 1)))
	gone, _ := g.public(by)
	refused("a revoked key", "revoked", plain, nil, gone)

	tarball = g.file("zeros", make([]byte, maxContent+1))
	refused("much of nothing", "size exceeds", sign("older@example.com", in), nil, older)
}

// Keys and signatures of version 6 (RFC 9580) are as those of version 4.
func TestVersion6(t *testing.T) {
	now := time.Now()
	e, err := openpgp.NewEntity("office", "", "office@example.com", &packet.Config{V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519, Time: func() time.Time { return now.Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	content := packed(t)
	signed, err := Sign(content, Keys{e}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, signer, err := Verify(signed, nil, Keys{e}, now); err != nil || !bytes.Equal(got, content) || len(signer) != 64 {
		t.Errorf("%s, %v", signer, err)
	}
}
