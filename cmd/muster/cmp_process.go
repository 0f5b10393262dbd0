package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// maxCMPMessage is how many bytes a PKIMessage may have: no endpoint takes more.
const maxCMPMessage = 256 << 10

// processOptions are the flags of `muster cmp process`.
type processOptions struct {
	clientFlags
	endpoint string
	force    bool
}

func newCMPProcessCommand() *cobra.Command {
	o := &processOptions{}
	cmd := &cobra.Command{
		Use: "process IN OUT", Short: "Have the running gateway answer a CMP message in a file",
		Long: `Gives the running gateway the PKIMessage in the file IN (DER, as "openssl cmp -reqout" writes it) and writes the answer to the
file OUT: for devices that no network reaches, whose requests and answers somebody carries. "-" is standard input or output.

The message is treated like one that came over HTTP, except that it may be older (files: {clock-skew: 14d}), and that a certificate
waits for longer to be confirmed (files: {confirm-wait: 14d}). Nothing is granted by this command: the message authenticates
itself. The same file again gets the same answer.

Ends with 0 when an answer was written, a refusal too: the line printed says what it is. Else OUT is not written.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0], args[1]) },
	}
	o.where(cmd)
	o.narrowing = []string{"endpoint"}
	cmd.Flags().StringVar(&o.endpoint, "endpoint", "", "`NAME` of the CMP endpoint (default: the one that is the default, or the only one)")
	cmd.Flags().BoolVar(&o.force, "force", false, "write OUT though it is there")
	return cmd
}

func (o *processOptions) run(cmd *cobra.Command, in, out string) error {
	request, err := readMessage(cmd.InOrStdin(), in)
	if err != nil {
		return err
	}
	if out != "-" {
		if err := o.mayWrite(in, out); err != nil {
			return err
		}
	}
	answer, err := o.client().ProcessCMP(cmd.Context(), o.endpoint, request)
	if err != nil {
		return o.explained(err)
	}
	m, err := cmpmsg.Parse(answer)
	if err != nil {
		return fmt.Errorf("the answer is no PKIMessage: %w", err)
	}
	told := cmd.OutOrStdout()
	if out == "-" {
		if _, err := cmd.OutOrStdout().Write(answer); err != nil {
			return err
		}
		told = cmd.ErrOrStderr()
	} else if err := writeWhole(out, answer, o.force); err != nil {
		return fmt.Errorf("the gateway has answered (%s), and the answer could not be written; the same message again gets it again: %w", answerLine(m), err)
	}
	_, err = fmt.Fprintln(told, answerLine(m))
	return err
}

// readMessage reads IN, "-" for standard input.
func readMessage(stdin io.Reader, file string) ([]byte, error) {
	from := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, maxCMPMessage+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxCMPMessage:
		return nil, fmt.Errorf("%s: larger than %d bytes: no CMP message is", file, maxCMPMessage)
	case len(data) == 0:
		return nil, fmt.Errorf("%s: empty", file)
	}
	return data, nil
}

// mayWrite finds what stands against OUT before the gateway is asked.
func (o *processOptions) mayWrite(in, out string) error {
	info, err := os.Lstat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent, err := os.Stat(filepath.Dir(out))
		if err != nil {
			return err
		}
		if !parent.IsDir() {
			return fmt.Errorf("%s is not a folder", filepath.Dir(out))
		}
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is there, and is not a file", out)
	}
	if source, err := os.Stat(in); err == nil && in != "-" && os.SameFile(source, info) {
		return fmt.Errorf("%s is the request: name another file for the answer", out)
	}
	if !o.force {
		return fmt.Errorf("%s is there: --force writes over it", out)
	}
	return nil
}

// writeWhole makes a file, mode 0600, that is there whole or not at all. Unless it may replace one, it fails when there is one.
func writeWhole(path string, data []byte, replace bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".muster-*")
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	defer os.Remove(f.Name()) //nolint:errcheck // gone when it was renamed
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := cmp.Or(f.Chmod(0o600), f.Sync()); err != nil {
		return err
	}
	name := f.Name()
	err, f = f.Close(), nil
	if err != nil {
		return err
	}
	if replace {
		return os.Rename(name, path)
	}
	return os.Link(name, path) // a rename would write over what came meanwhile
}

// answerLine says in a line what an answer is, such as "ip: accepted, transaction 06f1..." or "error: badTime: the messageTime is ...".
func answerLine(m *cmpmsg.Message) string {
	if m.Body == nil {
		return "an answer that does not parse"
	}
	text := m.Body.Type().String()
	switch b := m.Body.(type) {
	case *cmpmsg.PollRep:
		text += ": not decided yet"
		if len(b.Responses) > 0 {
			text += fmt.Sprintf(", ask again in %d s", b.Responses[0].CheckAfter)
		}
	default:
		if s := answerStatus(m); s != nil {
			text += ": " + statusWords(s)
		}
	}
	return fmt.Sprintf("%s, transaction %x", text, m.Header.TransactionID)
}

func statusWords(s *cmpmsg.PKIStatusInfo) string {
	text := s.Status.String()
	if s.FailInfo != 0 {
		text = s.FailInfo.String()
	}
	for _, t := range s.Text {
		text += ": " + words.Plain(t)
	}
	return text
}

// answerStatus is the status that an answer has, of several the first that is a failure; nil when it has none.
func answerStatus(m *cmpmsg.Message) *cmpmsg.PKIStatusInfo {
	var all []*cmpmsg.PKIStatusInfo
	switch b := m.Body.(type) {
	case *cmpmsg.ErrorMsg:
		all = append(all, &b.Status)
	case *cmpmsg.CertRepMessage:
		for i := range b.Responses {
			all = append(all, &b.Responses[i].Status)
		}
	case *cmpmsg.RevRep:
		for i := range b.Statuses {
			all = append(all, &b.Statuses[i])
		}
	}
	for _, s := range all {
		if s.Status == cmpmsg.StatusRejection {
			return s
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}
