package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Bounds of tokens.
const (
	maxTokenFile = 1 << 20
	maxTokens    = 1000
	minToken     = 22 // characters: 128 bits in base64
	maxToken     = 256
	maxTokenName = 64
)

// token is one line of the token file.
type token struct {
	name string
	role Role
	sum  [sha256.Size]byte // SHA-256 of the token
}

// tokens are the lines of a token file. A file has at most maxTokens, so that finding one costs little.
type tokens []token

// checkToken says why a string cannot be a token. The error holds nothing of it.
func checkToken(s string) error {
	switch {
	case len(s) < minToken || len(s) > maxToken:
		return fmt.Errorf("a token has %d to %d characters: openssl rand -hex 32", minToken, maxToken)
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("a token has printable ASCII characters only, without spaces")
	}
	return nil
}

// readTokens reads a file of lines NAME:ROLE:{sha256}HEX, where HEX is the SHA-256 of a token of 128 random bits or more.
// Empty lines and those that begin with # are left out. Errors name the line and hold nothing of a hash.
func readTokens(path string) (tokens, error) {
	data, err := strictyaml.ReadFile("", path, maxTokenFile)
	if err != nil {
		return nil, err
	}
	// Who writes the file makes himself an administrator.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("%s: its mode is %04o: group or others may write it; make it 0600 (chmod 600)", path, mode)
	}
	var all tokens
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := parseToken(line)
		if err == nil {
			err = all.admit(t)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		all = append(all, t)
	}
	return all, nil
}

func parseToken(line string) (token, error) {
	want := errors.New("want NAME:ROLE:{sha256}HEX, with HEX the SHA-256 of a random token: printf %s \"$TOKEN\" | sha256sum")
	part := strings.Split(line, ":")
	if len(part) != 3 {
		return token{}, want
	}
	t := token{name: part[0]}
	if t.name == "" || len(t.name) > maxTokenName || strings.ContainsFunc(t.name, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }) {
		return token{}, fmt.Errorf("a token's name has 1 to %d printable characters, without spaces", maxTokenName)
	}
	var err error
	if t.role, err = ParseRole(part[1]); err != nil {
		return token{}, err
	}
	digits, ok := strings.CutPrefix(part[2], "{sha256}")
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil || len(sum) != sha256.Size {
		return token{}, want
	}
	t.sum = [sha256.Size]byte(sum)
	return t, nil
}

// admit checks a token against those that stand.
func (all tokens) admit(t token) error {
	if len(all) >= maxTokens {
		return fmt.Errorf("more than %d tokens", maxTokens)
	}
	for _, other := range all {
		if other.name == t.name {
			return fmt.Errorf("there is a token named %s already", t.name)
		}
		if other.sum == t.sum {
			return fmt.Errorf("this is token %s", other.name)
		}
	}
	return nil
}

// find returns the token that was presented, in a time that tells nothing of which comes near.
func (all tokens) find(presented string) (found token, ok bool) {
	if len(presented) > maxToken {
		return token{}, false
	}
	sum := sha256.Sum256([]byte(presented))
	for _, t := range all {
		if subtle.ConstantTimeCompare(t.sum[:], sum[:]) == 1 {
			found, ok = t, true
		}
	}
	return found, ok
}
