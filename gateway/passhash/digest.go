package passhash

import (
	"crypto/sha256"
	"encoding/hex"
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

// Digest returns the form of a password that HTTP Digest can be compared with: "{digest-sha-256}", the realm, a colon, and HA1
// in hexadecimal. It is a fast hash, and who has it can log in by Digest: it is to be kept as the password is. The password has
// 1 to MaxPassword bytes.
func Digest(user, realm string, password []byte) (string, error) {
	if len(password) == 0 || len(password) > MaxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", MaxPassword)
	}
	// RFC 7616 section 3.4.2 puts colons between the parts, and none may be in the first two.
	if user == "" || strings.Contains(user, ":") {
		return "", errors.New("a user name has no colon, and is not empty")
	}
	if err := checkRealm(realm); err != nil {
		return "", err
	}
	return digestPrefix + realm + ":" + hex.EncodeToString(HA1(user, realm, password)), nil
}

// IsDigest reports whether it is of the form that Digest makes, right or not.
func IsDigest(s string) bool { return strings.HasPrefix(s, digestPrefix) }

// ParseDigest reads what Digest makes; ok is false for another form. Its errors hold nothing of the hash.
func ParseDigest(s string) (realm string, ha1 []byte, ok bool, err error) {
	rest, ok := strings.CutPrefix(s, digestPrefix)
	if !ok {
		return "", nil, false, nil
	}
	realm, digits, _ := strings.Cut(rest, ":")
	if err := checkRealm(realm); err != nil {
		return "", nil, true, err
	}
	if ha1, err = hex.DecodeString(digits); err != nil || len(ha1) != sha256.Size {
		return "", nil, true, errors.New("after {digest-sha-256} come the realm, a colon and 64 hexadecimal digits")
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
