package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/cmd/muster/words"
)

// errNotConfirmed ends a command that somebody did not confirm.
var errNotConfirmed = errors.New("nothing was changed")

// confirm asks at a terminal before a command does what cannot be undone. Without a terminal it refuses: scripts say --yes.
func confirm(cmd *cobra.Command, question string) error {
	in := cmd.InOrStdin()
	if !isTerminal(in) {
		return fmt.Errorf("%s --yes says so; nothing was changed", question)
	}
	return ask(in, cmd.ErrOrStderr(), question)
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ask takes y or yes for an answer, and everything else for no.
func ask(in io.Reader, out io.Writer, question string) error {
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, _, err := words.ReadLine(bufio.NewReaderSize(in, 4096))
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(string(line))) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}
