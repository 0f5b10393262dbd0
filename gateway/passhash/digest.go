package passhash

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const digestPrefix = "{digest-sha-256}"

// maxRealm is more than an endpoint's name has, in bytes.
const maxRealm = 255

// HA1 is what HTTP Digest knows of a password (RFC 7616 section 3.4.2): the SHA-256 of user:realm:password.
func HA1(user, realm string, password []byte) []byte {
	h := sha256.New()
	h.Write([]byte(user + ":" + realm + ":"))
	h.Write(password)
	return h.Sum(nil)
}

// sealedDigest is what a digest form is sealed for, followed by user and realm.
const sealedDigest = "digest"

// Digest returns the form of a password that HTTP Digest can be compared with: "{digest-sha-256}", the realm, a colon, and HA1
// in base64, sealed for this user and realm: it is a fast hash, and who has it can log in by Digest. seal is seal.Sealer's. The
// password has 1 to MaxPassword bytes.
func Digest(user, realm string, password []byte, seal func(secret []byte, context ...string) []byte) (string, error) {
	if len(password) == 0 || len(password) > MaxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", MaxPassword)
	}
	if err := CheckDigest(user, realm); err != nil {
		return "", err
	}
	return digestPrefix + realm + ":" + base64.StdEncoding.EncodeToString(seal(HA1(user, realm, password), sealedDigest, user, realm)), nil
}

// CheckDigest says what is wrong with a user or realm for which a digest form is to be made.
func CheckDigest(user, realm string) error {
	// RFC 7616 section 3.4.2 puts colons between the parts, and none may be in the first two.
	if user == "" || strings.Contains(user, ":") {
		return errors.New("a user name has no colon, and is not empty")
	}
	return checkRealm(realm)
}

// OpenDigest reads what Digest makes for the user; ok is false for another form. open is seal.Sealer's. Its errors hold nothing
// of the hash.
func OpenDigest(s, user string, open func(sealed []byte, context ...string) ([]byte, error)) (realm string, ha1 []byte, ok bool, err error) {
	rest, ok := strings.CutPrefix(s, digestPrefix)
	if !ok {
		return "", nil, false, nil
	}
	realm, text, _ := strings.Cut(rest, ":")
	if err := checkRealm(realm); err != nil {
		return "", nil, true, err
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sealed) == 0 {
		return "", nil, true, errors.New("after {digest-sha-256} come the realm, a colon and base64")
	}
	if ha1, err = open(sealed, sealedDigest, user, realm); err != nil {
		return "", nil, true, fmt.Errorf("the digest form for the realm %q does not open: make it anew by `muster password --digest %s --user %s`: %w", realm, realm, user, err)
	}
	if len(ha1) != sha256.Size {
		return "", nil, true, errors.New("what is sealed in the digest form is no SHA-256")
	}
	return realm, ha1, true, nil
}

func checkRealm(realm string) error {
	if realm == "" || len(realm) > maxRealm || !utf8.ValidString(realm) || strings.ContainsAny(realm, ":\"\\") ||
		strings.ContainsFunc(realm, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("a realm, the name of an endpoint, is 1 to 255 bytes without colon, quote and control characters")
	}
	return nil
}
