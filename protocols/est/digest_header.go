package est

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const (
	maxDigestHeader = 4096 // bytes
	maxDigestParams = 24   // RFC 7616 section 3.4 knows eleven
	maxCNonce       = 256  // bytes
)

// digestAnswer is what a client answers to a Digest challenge (RFC 7616 section 3.4).
type digestAnswer struct {
	user, realm, nonce, uri, algorithm, cnonce, nc string
	response                                       []byte // 32 bytes
}

// parseDigest reads an Authorization header behind its scheme. Whether the values are right it does not say, but for those that
// have one right value. Errors are for the client.
func parseDigest(s string) (*digestAnswer, error) {
	p, err := authParams(s)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"realm", "nonce", "uri", "response", "cnonce", "nc", "qop"} {
		if p[name] == "" {
			return nil, fmt.Errorf("it has no %s", name)
		}
	}
	a := &digestAnswer{realm: p["realm"], nonce: p["nonce"], uri: p["uri"], algorithm: p["algorithm"], cnonce: p["cnonce"], nc: p["nc"]}
	user, plain := p["username"]
	extended, star := p["username*"]
	switch {
	case plain == star:
		return nil, errors.New("it has one of username and username*")
	case star:
		if user, err = extValue(extended); err != nil {
			return nil, err
		}
	}
	a.user = user
	if p["qop"] != "auth" {
		return nil, errors.New("qop is auth, the one that was offered")
	}
	if h, given := p["userhash"]; given && !strings.EqualFold(h, "false") {
		return nil, errors.New("userhash was not offered")
	}
	if _, err := hex.DecodeString(a.nc); err != nil || len(a.nc) != 8 {
		return nil, errors.New("nc is 8 hexadecimal digits")
	}
	if len(a.cnonce) > maxCNonce {
		return nil, errors.New("cnonce is too long")
	}
	if strings.EqualFold(a.algorithm, digestAlgorithm) { // of others it has another length
		if a.response, err = hex.DecodeString(p["response"]); err != nil || len(a.response) != 32 {
			return nil, errors.New("response is 64 hexadecimal digits")
		}
	}
	return a, nil
}

// extValue reads the user name in a username* parameter (RFC 8187 section 3.2.1, in UTF-8).
func extValue(s string) (string, error) {
	part := strings.Split(s, "'")
	if len(part) != 3 || !strings.EqualFold(part[0], "UTF-8") {
		return "", errors.New("username* begins with UTF-8''")
	}
	user, err := url.PathUnescape(part[2])
	if err != nil {
		return "", errors.New("username* is not percent-encoded")
	}
	return user, nil
}

// authParams reads a list of parameters (RFC 9110 section 11.2) with the names in lower case. No name may stand twice. A value may
// be quoted or not, whichever the parameter asks for: clients differ there.
//
//	#auth-param   = [ auth-param ] *( OWS "," OWS [ auth-param ] )
//	auth-param    = token BWS "=" BWS ( token / quoted-string )
//	quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
func authParams(s string) (map[string]string, error) {
	if len(s) > maxDigestHeader {
		return nil, errors.New("it is too long")
	}
	params := map[string]string{}
	for rest := skipSpace(s); rest != ""; {
		if rest[0] == ',' { // an empty element
			rest = skipSpace(rest[1:])
			continue
		}
		name, after := cutToken(rest)
		after, found := strings.CutPrefix(skipSpace(after), "=")
		if name == "" || !found {
			return nil, errors.New("it is a list of NAME=VALUE with commas between")
		}
		name = strings.ToLower(name)
		value, after, err := cutValue(skipSpace(after))
		if err != nil {
			return nil, err
		}
		if _, twice := params[name]; twice {
			return nil, errors.New("a parameter stands twice")
		}
		if len(params) == maxDigestParams {
			return nil, errors.New("it has too many parameters")
		}
		params[name] = value
		if rest = skipSpace(after); rest != "" && rest[0] != ',' {
			return nil, errors.New("it is a list of NAME=VALUE with commas between")
		}
	}
	return params, nil
}

// cutValue cuts a token or a quoted-string off, without the quotes.
func cutValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		if value, rest = cutToken(s); value == "" {
			return "", "", errors.New("a parameter has no value")
		}
		return value, rest, nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s): // quoted-pair
			i++
			c = s[i]
			fallthrough
		default:
			if c < ' ' && c != '\t' || c == 0x7f {
				return "", "", errors.New("a value has control characters")
			}
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("a quote is not closed")
}

// cutToken cuts off what it can of a token (RFC 9110 section 5.6.2).
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t") }
