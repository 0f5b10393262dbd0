package stepca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// lifetime is how long a token is good for: the call, and clocks that differ a little (step-ca allows a minute more).
const lifetime = 5 * time.Minute

// claims are a token's (authority/provisioner/jwk.go and x5c.go, jwtPayload).
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	ID       string   `json:"jti"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	SANs     []string `json:"sans,omitempty"`
	Confirm  *cnf     `json:"cnf,omitempty"`
	Muster   *content `json:"muster,omitempty"`
}

// cnf binds a token to one PKCS#10: the SHA-256 of its DER, base64url (csrFingerprintValidator).
type cnf struct {
	Fingerprint string `json:"x5rt#S256"`
}

// signer makes tokens for a provisioner.
type signer struct {
	name     string // of the provisioner
	fragment string // of the audience
	key      func() (jose.SigningKey, *jose.SignerOptions, error)
}

// newSigner reads the provisioner's key. Its errors hold nothing of what stands in the files.
func newSigner(c *Config) (*signer, error) {
	s := &signer{name: c.Provisioner}
	if c.X5C != nil {
		s.fragment = "#x5c/" + c.Provisioner // X5C.GetIDForToken
		s.key = c.X5C.signingKey
		_, _, err := s.key()
		return s, err
	}
	key, err := c.JWK.read()
	if err != nil {
		return nil, fmt.Errorf("jwk: %w", err)
	}
	algorithm, err := algorithmOf(key.Key)
	if err != nil {
		return nil, fmt.Errorf("jwk: %w", err)
	}
	if key.KeyID == "" { // the thumbprint of RFC 7638, as `step crypto jwk create` names keys
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, errors.New("jwk: a key that has no thumbprint")
		}
		key.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	s.key = func() (jose.SigningKey, *jose.SignerOptions, error) {
		o := new(jose.SignerOptions).WithType("JWT").WithHeader("kid", key.KeyID)
		return jose.SigningKey{Algorithm: algorithm, Key: key.Key}, o, nil
	}
	return s, nil
}

// sign makes the compact JWS (RFC 7515 section 3.1) of claims.
func (s *signer) sign(c *claims) (string, error) {
	key, o, err := s.key()
	if err != nil {
		return "", err
	}
	js, err := jose.NewSigner(key, o)
	if err != nil {
		return "", errors.New("the provisioner's key does not sign")
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	token, err := js.Sign(payload)
	if err != nil {
		return "", errors.New("the provisioner's key does not sign")
	}
	return token.CompactSerialize()
}

// keyAlgorithms and contentEncryptions are those of a JWE with a password (RFC 7518 sections 4.8 and 5.1).
var (
	keyAlgorithms      = []jose.KeyAlgorithm{jose.PBES2_HS256_A128KW, jose.PBES2_HS384_A192KW, jose.PBES2_HS512_A256KW}
	contentEncryptions = []jose.ContentEncryption{jose.A128GCM, jose.A192GCM, jose.A256GCM, jose.A128CBC_HS256, jose.A192CBC_HS384, jose.A256CBC_HS512}
)

func (j *JWK) read() (*jose.JSONWebKey, error) {
	text, err := upstream.Secret(j.Key)
	if err != nil {
		return nil, err
	}
	key := new(jose.JSONWebKey)
	parse := jose.ParseEncryptedCompact
	if len(text) > 0 && text[0] == '{' {
		parse = jose.ParseEncryptedJSON
	}
	sealed, err := parse(string(text), keyAlgorithms, contentEncryptions)
	switch {
	case err == nil && j.Password == "":
		return nil, fmt.Errorf("%s is encrypted: name the file of its password", j.Key)
	case err == nil:
		password, err := upstream.Secret(j.Password)
		if err != nil {
			return nil, fmt.Errorf("password: %w", err)
		}
		if text, err = sealed.Decrypt(password); err != nil {
			return nil, fmt.Errorf("%s cannot be decrypted with the password in %s", j.Key, j.Password)
		}
	case j.Password != "":
		return nil, fmt.Errorf("%s is not encrypted with a password: leave `password` out", j.Key)
	}
	if err := json.Unmarshal(text, key); err != nil { // whose text may hold the key
		return nil, fmt.Errorf("%s holds no JSON Web Key", j.Key)
	}
	if !key.Valid() || key.IsPublic() {
		return nil, fmt.Errorf("%s holds no private key", j.Key)
	}
	return key, nil
}

func (x *X5C) signingKey() (jose.SigningKey, *jose.SignerOptions, error) {
	none := func(err error) (jose.SigningKey, *jose.SignerOptions, error) {
		return jose.SigningKey{}, nil, fmt.Errorf("x5c: %w", err)
	}
	key, err := upstream.Secret(x.Key)
	if err != nil {
		return none(err)
	}
	chain, err := os.ReadFile(x.Cert)
	if err != nil {
		return none(err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return none(fmt.Errorf("%s and %s: %w", x.Cert, x.Key, err))
	}
	algorithm, err := algorithmOf(pair.PrivateKey)
	if err != nil {
		return none(err)
	}
	var x5c []string // RFC 7515 section 4.1.6
	for _, der := range pair.Certificate {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(der))
	}
	o := new(jose.SignerOptions).WithType("JWT").WithHeader("x5c", x5c)
	return jose.SigningKey{Algorithm: algorithm, Key: pair.PrivateKey}, o, nil
}

func algorithmOf(key any) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return jose.ES256, nil
		case 384:
			return jose.ES384, nil
		case 521:
			return jose.ES512, nil
		}
	case *rsa.PrivateKey:
		return jose.RS256, nil
	case ed25519.PrivateKey:
		return jose.EdDSA, nil
	}
	return "", errors.New("wants an EC, RSA or Ed25519 private key")
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// freshID is a jti that was never used.
func freshID() string { return rand.Text() }
