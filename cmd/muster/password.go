package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/authz"
)

func newPasswordCommand() *cobra.Command {
	var realm, user string
	cmd := &cobra.Command{
		Use: "password", Short: "Read a password, print the form in which a configuration holds it",
		Long: `Reads a password from the terminal, without showing it, or one line from standard input, and prints its argon2id hash:
what stands behind a user's name in the stage "password". With --user and --digest it prints the form that HTTP Digest needs, for this
user at this endpoint; it is a fast hash, and whoever reads it can log in by Digest: keep the file from others.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Its mistakes are told before anybody is asked for a password.
			if cmd.Flags().Changed("digest") {
				if _, err := authz.HashDigest(user, realm, []byte("x")); err != nil {
					return err
				}
			}
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			hash := authz.HashPassword
			if cmd.Flags().Changed("digest") {
				hash = func(password []byte) (string, error) { return authz.HashDigest(user, realm, password) }
			}
			hashed, err := hash(password)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), hashed)
			return nil
		},
	}
	cmd.Flags().StringVar(&realm, "digest", "", "print the form for HTTP Digest at this `endpoint` (its realm)")
	cmd.Flags().StringVar(&user, "user", "", "the user's `name`, which is part of that form")
	cmd.MarkFlagsRequiredTogether("digest", "user")
	return cmd
}

// readPassword asks twice at a terminal, and reads one line of anything else.
func readPassword(in io.Reader, prompt io.Writer) ([]byte, error) {
	lines := bufio.NewReaderSize(in, 4096)
	f, ok := in.(*os.File)
	if !ok {
		return readLine(lines)
	}
	shown, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil { // no terminal
		return readLine(lines)
	}
	hidden := *shown
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ECHONL
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &hidden); err != nil {
		return nil, err
	}
	defer unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, shown) //nolint:errcheck // nothing else can be done
	fmt.Fprint(prompt, "Password: ")
	first, err := readLine(lines)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(prompt, "Again: ")
	second, err := readLine(lines)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two are not the same")
	}
	return first, nil
}

func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil && !(errors.Is(err, io.EOF) && len(line) > 0) {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no password was given")
		}
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if len(line) == 0 {
		return nil, errors.New("the password is empty")
	}
	return bytes.Clone(line), nil
}
