package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/gateway/seal"
)

func newPasswordCommand() *cobra.Command {
	var realm, user, config, data string
	cmd := &cobra.Command{
		Use: "password", Short: "Read a password, print the form in which a configuration holds it",
		Long: `Reads a password from the terminal, without showing it, or one line from standard input, and prints its argon2id hash:
what stands behind a user's name in the stage "password". With --user and --digest it prints the form that HTTP Digest needs, for this
user at this endpoint, sealed with the gateway's key: that of the configuration (--config) or of the data directory (--data).`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hash := authz.HashPassword
			// Its mistakes are told before anybody is asked for a password.
			if cmd.Flags().Changed("digest") {
				if err := passhash.CheckDigest(user, realm); err != nil {
					return err
				}
				sealer, err := sealerOf(config, data)
				if err != nil {
					return err
				}
				hash = func(password []byte) (string, error) { return passhash.Digest(user, realm, password, sealer.Seal) }
			}
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
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
	cmd.Flags().StringVar(&config, "config", "", "the gateway's configuration `FILE` (default: DATA/muster.yaml)")
	cmd.Flags().StringVar(&data, "data", "", "the gateway's data `DIR` (default: "+defaultData+", or with --config the file's folder)")
	cmd.MarkFlagsRequiredTogether("digest", "user")
	return cmd
}

// sealerOf is the key that a gateway of this configuration and data directory seals with; one is made where the gateway would.
func sealerOf(config, data string) (*seal.Sealer, error) {
	dir, err := (&serveOptions{config: config, data: data}).dataDir()
	if err != nil {
		return nil, err
	}
	if own := (quickstart{dir}).config(); config == "" && holdsSomething(own) {
		config = own
	}
	if config != "" {
		cfg, err := loadConfig(config)
		if err != nil {
			return nil, err
		}
		if cfg.Seal != nil {
			return seal.Load(cfg.path(cfg.Seal.File), false)
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("there is no gateway's key: %w; say where the gateway runs by --config FILE, or --data DIR", err)
	}
	return seal.Load(filepath.Join(dir, sealKey), true)
}

// readPassword asks twice at a terminal, and reads one line of anything else.
func readPassword(in io.Reader, prompt io.Writer) ([]byte, error) {
	lines := bufio.NewReaderSize(in, 4096)
	f, ok := in.(*os.File)
	if !ok {
		return readLine(lines)
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil { // no terminal
		return readLine(lines)
	}
	show, err := hideInput(int(f.Fd()), func(s os.Signal) {
		signal.Reset(s)
		unix.Kill(os.Getpid(), s.(unix.Signal)) //nolint:errcheck // it ends as it would have
	})
	if err != nil {
		return nil, err
	}
	defer show()
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

// hideInput keeps the terminal from showing what is typed, until show is called. A signal that would end the program meanwhile
// (Ctrl-C) has it show again before ended is called: the terminal would stay mute behind the program.
func hideInput(terminal int, ended func(os.Signal)) (show func(), err error) {
	before, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	again := func() { unix.IoctlSetTermios(terminal, unix.TCSETS, before) } //nolint:errcheck // nothing else can be done
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	go func() {
		select {
		case s := <-signals:
			again()
			ended(s)
		case <-done:
		}
	}()
	show = func() {
		signal.Stop(signals)
		close(done)
		again()
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ECHONL
	if err := unix.IoctlSetTermios(terminal, unix.TCSETS, &hidden); err != nil {
		show()
		return nil, err
	}
	return show, nil
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
