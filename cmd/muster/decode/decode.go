// Package decode shows captured CMP and SCEP messages to people: the commands `muster cmp decode` and `muster scep decode`.
// Every byte of a capture is a stranger's: what is broken is shown as far as it can be read, and what is shown drives
// nothing. A signature, MAC or proof that verifies says that the message is what its signer made; nothing is trusted by it.
// It is not part of how the gateway reads messages (protocols/cmp, protocols/scep, which refuse what is broken), and asks no
// gateway. cmd/muster calls it.
package decode

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// maxCapture is how large a file to decode may be.
const maxCapture = 16 << 20

// decoder is what the flags of a decode command say, and what went wrong with one file.
type decoder struct {
	secret      []byte // for MACs; nil: not given
	keys        []*rsa.PrivateKey
	certs       []*x509.Certificate // that came with the keys
	showSecrets bool

	file    string
	faults  []error
	nesting int // of PKIMessages, now
	macs    int // computed so far
}

// NewCMPCommand makes `muster cmp decode`.
func NewCMPCommand() *cobra.Command {
	d := &decoder{}
	var secret string
	cmd := &cobra.Command{
		Use: "decode FILE", Short: "Show a CMP message: header, protection, body and certificates",
		Long: `Shows a PKIMessage (RFC 9810) as a captured file holds it: DER, PEM or base64; "-" is standard input.
Signatures are checked with the certificates in extraCerts, MACs with the secret in --secret-file. Nothing is trusted by
that: it tells whether the message is what its signer made, not who the signer is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if secret != "" {
				var err error
				if d.secret, err = readSecretFile(secret); err != nil {
					return err
				}
			}
			return d.decode(cmd, args[0], func(der []byte) *node { return d.cmpMessage(der, "", 0) })
		},
	}
	cmd.Flags().StringVar(&secret, "secret-file", "", "`FILE` with the shared secret, to check MACs with; a line break at its end is dropped")
	d.flags(cmd)
	return cmd
}

// NewSCEPCommand makes `muster scep decode`.
func NewSCEPCommand() *cobra.Command {
	d := &decoder{}
	var key string
	cmd := &cobra.Command{
		Use: "decode FILE", Short: "Show a SCEP message: signature, attributes, and with a key what is encrypted",
		Long: `Shows what SCEP carries (RFC 8894) as a captured file holds it: a pkiMessage, the answer to GetCACert, an EnvelopedData;
DER, PEM or base64; "-" is standard input. What is encrypted is shown with the recipient's key: of a request the RA's, of an
answer the client's.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key != "" {
				if err := d.readKeys(key); err != nil {
					return err
				}
			}
			return d.decode(cmd, args[0], d.scepMessage)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "PEM `FILE` with the recipient's RSA key (PKCS #1 or PKCS #8), its certificate too if at hand")
	d.flags(cmd)
	return cmd
}

func (d *decoder) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.showSecrets, "show-secrets", false, "print challenge passwords and the like, not only that they are there")
}

// decode shows every message in a file. What could be read is shown even when the rest is broken.
func (d *decoder) decode(cmd *cobra.Command, file string, show func(der []byte) *node) error {
	data, err := readCapture(cmd.InOrStdin(), file)
	if err != nil {
		return err
	}
	messages, err := unwrap(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for i, m := range messages {
		d.file = file + m.where
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		if err := show(m.der).render(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	return errors.Join(d.faults...)
}

// fail records that something does not parse. base is where the message stands in the file.
func (d *decoder) fail(what string, base int, err error) {
	offset, why := 0, err.Error()
	if e, ok := errors.AsType[*cmpmsg.Error](err); ok {
		offset, why = e.Offset, e.What
	} else if e, ok := errors.AsType[*cms.Error](err); ok {
		offset, why = e.Offset, e.What
		if e.Err != nil {
			why = e.Err.Error() + ": " + why
		}
	}
	d.faults = append(d.faults, fmt.Errorf("%s: byte %d: %s: %s", d.file, base+offset, words.Plain(what), words.Plain(why)))
}

// readCapture reads a file whole, "-" for standard input.
func readCapture(stdin io.Reader, file string) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxCapture+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxCapture:
		return nil, fmt.Errorf("%s: over %d MiB", file, maxCapture>>20)
	case len(data) == 0:
		return nil, fmt.Errorf("%s: empty", file)
	}
	return data, nil
}

// captured is one message of a file.
type captured struct {
	der   []byte
	where string // says what offsets count in, when that is not the file
}

// unwrap finds the messages in a file: DER or BER, PEM blocks of any type, or base64 as it stands in logs and URLs.
func unwrap(data []byte) (list []captured, err error) {
	// The identifier of a SEQUENCE is the digit 0, with which base64 of a SEQUENCE never begins.
	if bytes.HasPrefix(data, []byte{0x30}) {
		return []captured{{der: data}}, nil
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		where := fmt.Sprintf(" (PEM block %d, %s)", len(list)+1, words.Plain(shorten(block.Type)))
		list = append(list, captured{der: block.Bytes, where: where})
	}
	if list != nil {
		return list, nil
	}
	text := strings.TrimSpace(string(data))
	if strings.Contains(text, "%") {
		if unescaped, err := url.PathUnescape(text); err == nil {
			text = unescaped
		}
	}
	text = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "", "-", "+", "_", "/").Replace(text)
	der, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(der) == 0 {
		return nil, errors.New("byte 0: neither DER, nor PEM, nor base64")
	}
	return []captured{{der: der, where: " (base64 decoded)"}}, nil
}

// readSecretFile reads the shared secret. The line break that editors put at the end is none of it.
func readSecretFile(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return nil, fmt.Errorf("%s: the secret is empty", file)
	}
	return data, nil
}

// readKeys reads a PEM file with RSA keys, and the certificates that are there too.
func (d *decoder) readKeys(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch block.Type {
		case "RSA PRIVATE KEY", "PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return fmt.Errorf("%s: the key is encrypted: decrypt it first, for example with `openssl pkey`", file)
			}
			key, err := parseRSAKey(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			d.keys = append(d.keys, key)
		case "ENCRYPTED PRIVATE KEY":
			return fmt.Errorf("%s: the key is encrypted: decrypt it first, for example with `openssl pkey`", file)
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			d.certs = append(d.certs, cert)
		}
	}
	if d.keys == nil {
		return fmt.Errorf("%s: no RSA private key in PEM", file)
	}
	return nil
}

// parseRSAKey reads PKCS #1 or PKCS #8, whatever the PEM block is called. Errors say nothing of the key.
func parseRSAKey(der []byte) (*rsa.PrivateKey, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("a private key that is neither PKCS #1 nor PKCS #8")
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not an RSA key: SCEP encrypts to RSA keys")
	}
	return rsaKey, nil
}
