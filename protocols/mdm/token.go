package mdm

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A token is the Challenge of a first profile: when it was made and a nonce, authenticated for the endpoint. The device's answers
// carry it, so an answer is good for no longer than Config.Within, and for what one fetched profile is good for.
//
//	base64url( Unix time, 8 bytes | nonce, 16 | first 16 of HMAC-SHA256 )
const (
	tokenBody = 8 + 16
	tokenMAC  = 16
	clockSkew = time.Minute // between replicas
)

func (h *Handler) mac(parts ...string) []byte {
	m := hmac.New(sha256.New, h.secret)
	for _, p := range parts {
		m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		m.Write([]byte(p))
	}
	return m.Sum(nil)
}

// token makes one.
func (h *Handler) token(endpoint string) string {
	body := make([]byte, tokenBody, tokenBody+tokenMAC)
	binary.BigEndian.PutUint64(body, uint64(h.now().Unix()))
	rand.Read(body[8:]) //nolint:errcheck // it never fails
	return base64.RawURLEncoding.EncodeToString(append(body, h.mac("token", endpoint, string(body))[:tokenMAC]...))
}

// judgeToken says what is wrong with a token.
func (h *Handler) judgeToken(endpoint, token string, within time.Duration) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != tokenBody+tokenMAC {
		return errors.New("it is none of ours")
	}
	body, mac := raw[:tokenBody], raw[tokenBody:]
	if !hmac.Equal(mac, h.mac("token", endpoint, string(body))[:tokenMAC]) {
		return errors.New("it is none of this endpoint's")
	}
	made, now := time.Unix(int64(binary.BigEndian.Uint64(body)), 0), h.now()
	if age := now.Sub(made); age > within || age < -clockSkew {
		return fmt.Errorf("it was made at %s, and is good for %s", made.UTC().Format(time.RFC3339), within)
	}
	return nil
}

// scepChallenge makes the challenge of a SCEP payload, 160 bits. The same device, step and token (or message, where there is no
// token) have the same one, so that an answer that was lost can be given again, and one that was recorded gives no second.
func (h *Handler) scepChallenge(endpoint, phase, device, once string) string {
	sum := h.mac("scep-challenge", endpoint, phase, device, once)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20]))
}
