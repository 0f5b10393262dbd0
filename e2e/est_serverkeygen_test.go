package e2e

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An endpoint that makes keys, and one that does not.
func keyMakingConfig(users string) string {
	return onLocalCA + `
profiles:
  device: {backend: local, validity: 90d}
endpoints:
  ran:
    protocol: est
    listeners: [https]
    profile: device
    default: true
    enroll:
      - anyOf:
          - password: {users: ` + users + `, device: user}
          - client-certificate: {cas: [devices.pem], device: subject.commonName}
      - names: {}
      - keys:
          generate: [P-256, Ed25519, RSA-2048]
          wrapping:
            keys: {kek-alice: {file: kek.hex, device: alice}}
            devices: true
    renew:
      - own-certificate: {}
      - keys: {generate: [P-256]}
  held:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: ` + users + `, device: user}
      - names: {}
      - keys: {generate: [P-256], wrapping: {keys: {kek-alice: {file: kek.hex, device: alice}}}}
      - approval: {approvers: 1}
  bare:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [{password: {users: ` + users + `}}, {names: {}}]
`
}

// keyRequest writes request.b64: a request for a key, as docs/est.md has it. attributes are lines of the section [attributes], and the
// sections that these name.
const keyRequest = `cat > request.cnf <<EOF
asn1 = SEQUENCE:request
[request]
info = SEQUENCE:info
algorithm = SEQUENCE:unsigned
signature = FORMAT:HEX,BITSTRING:00
[unsigned]
type = OID:ecdsa-with-SHA256
[info]
version = INTEGER:0
subject = SEQUENCE:subject
key = SEQUENCE:key
attributes = IMPLICIT:0C,SET:attributes
[subject]
name = SET:names
[names]
name = SEQUENCE:name
[name]
type = OID:commonName
value = UTF8:$1
[key]
kind = SEQUENCE:kind
none = FORMAT:HEX,BITSTRING:00
[kind]
%s
[attributes]
%s
EOF
openssl asn1parse -genconf request.cnf -noout -out request.der
openssl base64 -in request.der -out request.b64
`

const (
	kindP256    = "type = OID:id-ecPublicKey\ncurve = OID:prime256v1"
	kindEd25519 = "type = OID:ED25519"
	kindRSA     = "type = OID:rsaEncryption\nnull = NULL"
)

// attributeOf is an attribute of an OID with an OCTET STRING.
func attributeOf(oid, octets string) string {
	return fmt.Sprintf("key = SEQUENCE:wrap\n[wrap]\ntype = OID:%s\nvalues = SET:wrapvalues\n[wrapvalues]\nvalue = %s", oid, octets)
}

const (
	decryptKeyID      = "1.2.840.113549.1.9.16.2.37"
	asymmDecryptKeyID = "1.2.840.113549.1.9.16.2.54"
	onlyAES128        = "capabilities = SEQUENCE:capabilities\n[capabilities]\ntype = OID:1.2.840.113549.1.9.15\nvalues = SET:capvalues\n[capvalues]\nlist = SEQUENCE:caplist\n" +
		"[caplist]\none = SEQUENCE:aes128\n[aes128]\ntype = OID:aes-128-cbc\n"
	only3DES = "capabilities = SEQUENCE:capabilities\n[capabilities]\ntype = OID:1.2.840.113549.1.9.15\nvalues = SET:capvalues\n[capvalues]\nlist = SEQUENCE:caplist\n" +
		"[caplist]\none = SEQUENCE:des\n[des]\ntype = OID:des-ede3-cbc\n"
)

// keyClient asks for keys with curl.
type keyClient struct {
	*instance
	dir string
}

// ask sends a request for a key, and returns status, headers and body.
func (c *keyClient) ask(endpoint, who, cn, kind, attributes string) (status string, header textproto.MIMEHeader, body string) {
	c.t.Helper()
	// A section follows the attributes' own line: so that of capabilities alone may stand first.
	if strings.HasPrefix(attributes, "capabilities") && strings.Contains(attributes, "key = ") {
		i := strings.Index(attributes, "key = ")
		line, rest, _ := strings.Cut(attributes[i:], "\n")
		attributes = line + "\n" + attributes[:i] + rest
	}
	c.sh(c.dir, "set -- '"+cn+"'\n"+fmt.Sprintf(keyRequest, kind, attributes)+
		`curl -sS --cacert "$MUSTER_CA" `+who+` -H 'Content-Type: application/pkcs10' --data-binary @request.b64 -D headers -o answer -w '%{http_code}' "$MUSTER_HTTPS/.well-known/est/`+endpoint+`serverkeygen" > status`)
	header = textproto.MIMEHeader{}
	for _, line := range strings.Split(c.read("headers"), "\r\n")[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			header.Add(name, value)
		}
	}
	return c.read("status"), header, c.read("answer")
}

func (c *keyClient) read(name string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// split writes the parts of the answer: key.b64 and certs.b64, and returns the type of the first.
func (c *keyClient) split(header textproto.MIMEHeader, body string) string {
	c.t.Helper()
	mediaType, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/mixed" || header.Get("Content-Length") != fmt.Sprint(len(body)) || header.Get("Cache-Control") != "no-store" {
		c.t.Fatalf("%v: %v", header, err)
	}
	in := multipart.NewReader(strings.NewReader(body), params["boundary"])
	var types []string
	for _, name := range []string{"key.b64", "certs.b64"} {
		p, err := in.NextRawPart()
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			c.t.Fatal(err)
		}
		types = append(types, p.Header.Get("Content-Type"))
		if err := os.WriteFile(filepath.Join(c.dir, name), text, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := in.NextRawPart(); err != io.EOF || types[1] != "application/pkcs7-mime; smime-type=certs-only" {
		c.t.Fatalf("%q, %v", types, err)
	}
	return types[0]
}

// plainKey is the shell that makes key.pem and cert.pem of a plain answer; unwrapKey that of what was decrypted to signed.der.
const (
	plainKey  = `openssl base64 -d -A -in key.b64 | openssl pkey -inform DER -out key.pem`
	unwrapKey = `n=$(wc -c < signed.der)
{ printf "$(printf '\\%03o' 48 130 $(((n+15)/256)) $(((n+15)%256)) 6 9 42 134 72 134 247 13 1 7 2 160 130 $((n/256)) $((n%256)))"; cat signed.der; } > signed.p7
openssl cms -verify -inform DER -in signed.p7 -binary -CAfile "$MUSTER_CA" -purpose any -signer kga.pem -out keys.der
openssl asn1parse -inform DER -in keys.der -offset "$(openssl asn1parse -inform DER -in keys.der | sed -n '2s/:.*//p')" -noout -out key.der
openssl pkey -inform DER -in key.der -out key.pem`
	// partsByTools takes the answer apart as docs/est.md does.
	partsByTools = `part() { tr -d '\r' < answer | awk -v n="$1" '/^--/ {i++; body = 0; next} /^$/ {body = 1; next} body && i == n'; }
part 1 | openssl base64 -d -A > 1.der; part 2 | openssl base64 -d -A > 2.der
openssl base64 -d -A -in key.b64 | cmp - 1.der; openssl base64 -d -A -in certs.b64 | cmp - 2.der; test -s 1.der; test -s 2.der`
	matches = `openssl base64 -d -A -in certs.b64 | openssl pkcs7 -inform DER -print_certs -out cert.pem
openssl x509 -in cert.pem -noout -pubkey > a
openssl pkey -in key.pem -pubout > b
cmp a b
openssl x509 -in cert.pem -noout -text`
)

// RFC 7030 section 4.4, by curl and openssl: a key in the clear, with a shared key, for an RSA and an EC key; and what is refused.
func TestESTServerKeyGen(t *testing.T) {
	t.Parallel()
	users := `{alice: "{sha256}` + sha256Hex("alice-secret") + `", bob: "{sha256}` + sha256Hex("bob-secret") + `"}`
	dir := t.TempDir()
	made := &instance{t: t}
	// A CA of the devices', and their certificates: of RSA and EC, with and without a usage that lets something be encrypted for them.
	made.sh(dir, `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out devices.pem -subj "/CN=Devices" -days 2 2>/dev/null
certify() { # name, new key, usage
	openssl req -new -newkey $2 -nodes -keyout $1.key -out $1.csr -subj "/CN=$1" 2>/dev/null
	printf "keyUsage=critical,$3\nextendedKeyUsage=clientAuth\nsubjectKeyIdentifier=hash\n" > ext
	openssl x509 -req -in $1.csr -CA devices.pem -CAkey ca.key -CAcreateserial -days 1 -extfile ext -out $1.pem 2>/dev/null
}
certify rsa rsa:2048 digitalSignature,keyEncipherment
certify rsa-signs rsa:2048 digitalSignature
certify ec "ec -pkeyopt ec_paramgen_curve:P-256" digitalSignature,keyAgreement
certify ec-signs "ec -pkeyopt ec_paramgen_curve:P-256" digitalSignature
certify ed ed25519 digitalSignature
printf %064d 7 > kek.hex`)
	file := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	g := configured(t, keyMakingConfig(users), "devices.pem", file("devices.pem"), "kek.hex", file("kek.hex"))
	c := &keyClient{g, dir}
	alice, bob := "-u alice:alice-secret", "-u bob:bob-secret"
	as := func(name string) string { return "--cert " + name + ".pem --key " + name + ".key" }
	keyID := func(name string) string {
		out := c.sh(dir, `openssl x509 -in `+name+`.pem -noout -ext subjectKeyIdentifier | tail -1 | tr -d ' :\n'`)
		return attributeOf(asymmDecryptKeyID, "FORMAT:HEX,OCTETSTRING:"+out)
	}
	text := func(id string) string { return attributeOf(decryptKeyID, "OCTETSTRING:"+id) }
	const plain, encrypted = "application/pkcs8", "application/pkcs7-mime; smime-type=server-generated-key"

	stored := strings.TrimSpace(g.muster("secret", "add", "--endpoint", "ran", "--reference", "kek-bob", "--device", "bob", "--json"))
	_, stored, _ = strings.Cut(stored, `"secret": "`)
	stored, _, _ = strings.Cut(stored, `"`)
	if len(stored) != 32 {
		t.Fatalf("muster secret add made %q", stored)
	}
	decryptShared := func(key, id string) string {
		return `openssl base64 -d -A -in key.b64 | openssl cms -decrypt -inform DER -binary -secretkey ` + key + ` -secretkeyid $(printf ` + id + ` | od -An -tx1 | tr -d ' ') -out signed.der
openssl base64 -d -A -in key.b64 | openssl cms -cmsout -print -noout -inform DER > printed
` + unwrapKey
	}
	decryptFor := func(name string) string {
		return `openssl base64 -d -A -in key.b64 | openssl cms -decrypt -inform DER -binary -inkey ` + name + `.key -recip ` + name + `.pem -out signed.der
openssl base64 -d -A -in key.b64 | openssl cms -cmsout -print -noout -inform DER > printed
` + unwrapKey
	}
	for i, tt := range []struct {
		name, who, kind, attributes, contentType string
		open, key, says                          string // how it is opened; the kind of key; what openssl prints of the EnvelopedData
	}{
		{"plain", alice, kindP256, "", plain, plainKey, "ASN1 OID: prime256v1", ""},
		{"Ed25519", alice, kindEd25519, "", plain, plainKey, "ED25519", ""},
		{"RSA", alice, kindRSA, "", plain, plainKey, "Public-Key: (2048 bit)", ""}, // of no size
		{"plain, by a certificate", as("ed"), kindP256, "", plain, plainKey, "ASN1 OID: prime256v1", ""},
		{"a shared key", alice, kindP256, text("kek-alice"), encrypted, decryptShared(file("kek.hex"), "kek-alice"), "prime256v1", "aes-256-cbc"},
		{"a shared key, AES-128", alice, kindP256, onlyAES128 + text("kek-alice"), encrypted, decryptShared(file("kek.hex"), "kek-alice"), "prime256v1", "aes-128-cbc"},
		{"a shared key in the store, Ed25519", bob, kindEd25519, text("kek-bob"), encrypted, decryptShared(stored, "kek-bob"), "ED25519", "id-aes128-wrap"},
		{"for RSA", as("rsa"), kindP256, keyID("rsa"), encrypted, decryptFor("rsa"), "prime256v1", "d.ktri"},
		{"for EC", as("ec"), kindP256, keyID("ec"), encrypted, decryptFor("ec"), "prime256v1", "d.kari"},
	} {
		cn := fmt.Sprintf("made-%d", i)
		status, header, body := c.ask("", tt.who, cn, tt.kind, tt.attributes)
		if status != "200" {
			t.Errorf("%s: %s %s", tt.name, status, body)
			continue
		}
		if got := c.split(header, body); got != tt.contentType {
			t.Errorf("%s: %q", tt.name, got)
			continue
		}
		c.sh(dir, tt.open)
		c.sh(dir, partsByTools)
		if out := c.sh(dir, matches); !strings.Contains(out, tt.key) || !strings.Contains(out, cn) {
			t.Errorf("%s: not a certificate of such a key:\n%s", tt.name, out)
		}
		if tt.says != "" {
			if out := c.read("printed"); !strings.Contains(out, tt.says) {
				t.Errorf("%s: openssl does not see %q in\n%s", tt.name, tt.says, out)
			}
			// Section 4.4.2: signed by who made the key.
			if out := c.sh(dir, "openssl x509 -in kga.pem -noout -text"); !strings.Contains(out, "CN = Muster EST KGA") || !strings.Contains(out, "Key Generation Authority") {
				t.Errorf("%s: signed by\n%s", tt.name, out)
			}
		}
		c.keptNowhere(tt.name)
		// The answer was lost: what is encrypted is given again; what is not is another key, and the first certificate is revoked.
		if tt.who == alice && tt.kind == kindP256 {
			_, _, again := c.ask("", tt.who, cn, tt.kind, tt.attributes)
			header.Set("Content-Length", fmt.Sprint(len(again)))
			boundary := strings.TrimPrefix(strings.SplitN(again, "\r\n", 2)[0], "--")
			header.Set("Content-Type", "multipart/mixed; boundary="+boundary)
			first := c.read("key.b64")
			c.split(header, again)
			if same := c.read("key.b64") == first; same != (tt.contentType == encrypted) {
				t.Errorf("%s, again: the same answer: %v", tt.name, same)
			}
			if n := len(g.ledger(cn)); (n == 2) != (tt.contentType == plain) {
				t.Errorf("%s, again: %d certificates", tt.name, n)
			}
		}
	}

	// A certificate that was issued here renews itself with a key that is made: the last one, for EC.
	c.sh(dir, "cp key.pem own.key; cp cert.pem own.pem")
	status, header, body := c.ask("", as("own"), "made-8", kindP256, "")
	if status != "200" || c.split(header, body) != plain {
		t.Fatalf("rekey: %s %s", status, body)
	}
	c.sh(dir, plainKey+"\n"+matches)
	if list := g.transactions("made-8"); len(list) != 2 || list[0].Operation != "rekey" && list[1].Operation != "rekey" {
		t.Errorf("%+v", list)
	}

	// Held, and given to who asks again, whatever throw-away key is in the request: encrypted, and in the clear.
	for cn, attributes := range map[string]string{"held-plain": "", "held-shared": text("kek-alice")} {
		if status, header, body := c.ask("held/", alice, cn, kindP256, attributes); status != "202" || header.Get("Retry-After") == "" {
			t.Fatalf("%s: %s %s", cn, status, body)
		}
		g.muster("approve", g.held(cn), "--reason", "it is on the list")
		status, header, body := c.ask("held/", alice, cn, kindP256+"\n", attributes)
		if status != "200" {
			t.Errorf("%s, approved: %s %s", cn, status, body)
			continue
		}
		open := map[string]string{plain: plainKey, encrypted: decryptShared(file("kek.hex"), "kek-alice")}[c.split(header, body)]
		if out := c.sh(dir, open+"\n"+matches); !strings.Contains(out, cn) {
			t.Errorf("%s:\n%s", cn, out)
		}
	}

	for _, tt := range []struct {
		name, endpoint, who, attributes string
		status, says                    string
	}{
		{"no generate", "bare/", alice, "", "403", "this endpoint makes no keys"},
		{"nobody", "", "", "", "401", "a key is only made for a client that authenticates"},
		{"a wrong password", "", "-u alice:wrong", "", "401", ""},
		{"a wrong password, a key that is there", "", "-u alice:wrong", text("kek-alice"), "401", ""},
		{"no such shared key", "", alice, text("kek-nobody"), "400", "there is no key-encryption key under the identifier"},
		{"another device's", "", bob, text("kek-alice"), "403", "is not this device's"},
		{"another device's in the store", "", alice, text("kek-bob"), "403", "is not this device's"},
		{"no such public key", "", as("rsa"), keyID("ec"), "400", "there is no public key under the identifier"},
		{"no usage, RSA", "", as("rsa-signs"), keyID("rsa-signs"), "400", "does not have the key usage keyEncipherment"},
		{"no usage, EC", "", as("ec-signs"), keyID("ec-signs"), "400", "does not have the key usage keyAgreement"},
		{"Ed25519", "", as("ed"), keyID("ed"), "400", "it has to be RSA or EC"},
		{"for no certificate", "", alice, keyID("rsa"), "400", "this client shows none"},
		{"3DES alone", "", alice, only3DES + text("kek-alice"), "400", "SMIMECapabilities do not have what is needed"},
	} {
		status, _, body := c.ask(tt.endpoint, tt.who, "refused-0001", kindP256, tt.attributes)
		if status != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %s %s", tt.name, status, body)
		}
	}
}

// keptNowhere looks for the key of the last answer in the log and in the store.
func (c *keyClient) keptNowhere(name string) {
	c.t.Helper()
	block, _ := pem.Decode([]byte(c.read("key.pem")))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	c.keyKeptNowhere(name, key)
}

// keyKeptNowhere looks for a key in the log and in the store.
func (g *instance) keyKeptNowhere(name string, key any) {
	g.t.Helper()
	var secret []byte
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		if secret, err = key.Bytes(); err != nil {
			g.t.Fatal(err)
		}
	case *rsa.PrivateKey:
		secret = key.Primes[0].Bytes()
	case ed25519.PrivateKey:
		secret = key.Seed()
	}
	if len(secret) < 32 {
		g.t.Fatalf("%s: a key %T", name, key)
	}
	places := map[string]string{"the log": g.stderr.String()}
	for _, file := range []string{"muster.db", "muster.db-wal"} {
		b, err := os.ReadFile(filepath.Join(g.dir, file))
		if err != nil && !os.IsNotExist(err) {
			g.t.Fatal(err)
		}
		places[file] = string(b)
	}
	for place, text := range places {
		for _, form := range []string{string(secret), base64.StdEncoding.EncodeToString(pkcs8), hex.EncodeToString(secret)} {
			if strings.Contains(text, form) {
				g.t.Errorf("%s: the key is in %s", name, place)
			}
		}
	}
}
