package gateway

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

const hexPrefix = "hex:"

// ReferenceID is how a shared secret's reference (CMP senderKID, any bytes) stands in a Credential, in configurations and
// on screens: as it is when it is printable text, otherwise "hex:" and its bytes in hexadecimal. No two references have
// the same form.
func ReferenceID(reference []byte) string {
	s := string(reference)
	if s == "" || strings.HasPrefix(s, hexPrefix) || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return hexPrefix + hex.EncodeToString(reference)
	}
	return s
}

// ParseReferenceID is the inverse of ReferenceID. It takes "hex:" with printable bytes behind it too, and reports
// false for what stands for no bytes at all.
func ParseReferenceID(id string) (reference []byte, ok bool) {
	digits, isHex := strings.CutPrefix(id, hexPrefix)
	if !isHex {
		return []byte(id), id != ""
	}
	reference, err := hex.DecodeString(digits)
	return reference, err == nil && len(reference) > 0
}
