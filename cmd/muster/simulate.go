package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
)

// simulateFlags are those of `muster simulate`.
type simulateFlags struct {
	data, protocol, endpoint string
	url, ca                  string
	user, passwordFile       string
	elsewhere                bool
	devices                  int
	keys, subject, state     string
	pace                     simulate.Pace
	timeout                  time.Duration
	pid                      int
	json                     bool
	rate                     float64
	duration                 time.Duration
	keep                     bool

	here bool // the gateway is the one of data
}

// simulated is what `muster simulate --json` prints.
type simulated struct {
	URL      string           `json:"url"`
	Protocol gateway.Protocol `json:"protocol"`
	Enroll   *simulate.Report `json:"enroll,omitempty"`
	Renew    *simulate.Report `json:"renew,omitempty"`
	Revoke   *simulate.Report `json:"revoke,omitempty"`
	Good     bool             `json:"good"` // every device has its certificate
}

func newSimulateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "simulate", Short: "Load a gateway of your own with devices that do not exist",
		Long: `Has devices that do not exist ask a gateway for certificates, as good devices do: each waits as long as it is told, and tries again.
For a gateway of your own, before a roll-out: what is issued is issued, and stands in its books.`,
	}
	cmd.AddCommand(
		simulation(simulate.Enroll, "enroll", "Have devices enrol, and report", `Has devices enrol. With --state their keys and certificates are kept, for "muster simulate renew".`,
			"  muster simulate enroll --data ./muster-data --devices 1000 --within 60s"),
		simulation(simulate.Renew, "renew", "Have the devices of --state renew their certificates, and report", `Has devices renew that "muster simulate enroll --state DIR" enrolled.`,
			"  muster simulate renew --data ./muster-data --state ./fleet"),
		simulation(simulate.Revoke, "revoke", "Have the devices of --state revoke their certificates over CMP, and report", `Has devices revoke their own certificates that "muster simulate enroll --protocol cmp --state DIR" enrolled, each by an rr that it signs.
EST and SCEP have no such message.`,
			"  muster simulate revoke --protocol cmp --data ./muster-data --state ./fleet"),
		simulation("", "storm", "Have devices enrol, then all renew at once, and report", `Has devices enrol, then renew: all at once, or within --within. So come devices whose certificates expire in the same hour, or a
fleet after a power cut. With --state, devices that are there are not enrolled again when all of them have certificates.`,
			"  muster simulate storm --data ./muster-data --devices 1000\n  muster simulate storm --url https://ra.example/.well-known/est --ca roots.pem --user factory --password-file pw --yes-i-own-it"),
	)
	return cmd
}

// simulation makes one of the commands; phase "" is both.
func simulation(phase simulate.Phase, use, short, long, example string) *cobra.Command {
	f := &simulateFlags{}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: noArgs, Example: example,
		Long: long + `

Without --url the gateway is the one of --data, with the user, password and roots of its quickstart.env.
Ends with 0 when every device has its certificate. Ctrl-C ends the run, and the report says what was left.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, phase) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", defaultData, "data `DIR` of a gateway on this machine")
	flags.StringVar(&f.protocol, "protocol", string(gateway.EST), "est, cmp or scep")
	flags.StringVar(&f.url, "url", "", "the protocol's service `URL`, such as https://127.0.0.1:8443/.well-known/est (default: the one of --data)")
	flags.StringVar(&f.endpoint, "endpoint", "", "`NAME` of an endpoint of that gateway (default: the protocol's default one)")
	flags.StringVar(&f.ca, "ca", "", "PEM `FILE` with the roots of the gateway's TLS certificate (default: those of --data; with --url the system's)")
	flags.BoolVar(&f.elsewhere, "yes-i-own-it", false, "the gateway may be on another machine: it is yours, and you may load it")
	flags.StringVar(&f.user, "user", "", "user `NAME` that devices enrol with; CMP: the secret's reference")
	flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password, CMP's secret or SCEP's challenge, on one line")
	flags.IntVar(&f.devices, "devices", 100, fmt.Sprintf("how many (up to %d)", simulate.MaxDevices))
	flags.StringVar(&f.keys, "keys", "", "their keys: "+simulate.P256+", or "+simulate.RSA2048+" of a pool of 32 that they share (default: SCEP's are RSA, others' P-256)")
	flags.StringVar(&f.subject, "subject", "CN=sim-"+simulate.Number, "their subject, with "+simulate.Number+" for the device's number")
	flags.StringVar(&f.state, "state", "", "`DIR` where keys and certificates are kept (default: nowhere)")
	flags.IntVar(&f.pace.Concurrency, "concurrency", 64, "requests under way at a time, at most")
	flags.DurationVar(&f.pace.Within, "within", 0, "devices begin spread over this time; 0: all at once. In a storm: those that renew")
	flags.Float64Var(&f.rate, "rate", 0, "devices that begin per second; with --devices or --duration, which say for how long")
	flags.DurationVar(&f.duration, "duration", 0, "as --within; with --rate it says how many devices there are")
	flags.BoolVar(&f.keep, "keep-connections", false, "requests share connections that stay open, as a proxy's or an RA's do (not those with a device's certificate in TLS)")
	flags.DurationVar(&f.pace.Retry, "retry", 10*time.Second, "how long a device waits that is told to, and not how long")
	flags.DurationVar(&f.pace.GiveUp, "give-up", time.Hour, "how long after its first try a device gives up")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long a device waits for an answer")
	flags.IntVar(&f.pid, "pid", 0, "`PID` of the gateway, to report its memory and CPU (default: found by --data)")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *simulateFlags) run(cmd *cobra.Command, phase simulate.Phase) error {
	if err := f.check(); err != nil {
		return err
	}
	if err := f.begin(cmd.Flags().Changed); err != nil {
		return err
	}
	if phase == simulate.Revoke && f.protocol != string(gateway.CMP) {
		return fmt.Errorf("--protocol %s: a device can revoke its certificate over cmp alone", f.protocol)
	}
	if err := f.fill(cmd.Flags().Changed); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := f.client(ctx)
	if err != nil {
		return err
	}
	fleet, err := f.fleet(phase, cmd.Flags().Changed)
	if err != nil {
		return err
	}
	if picky, ok := client.(interface{ Fits(keys string) error }); ok {
		if err := picky.Fits(fleet.Keys()); err != nil {
			return err
		}
	}
	if f.rate > 0 && f.pace.Within == 0 {
		f.pace.Within = time.Duration(float64(fleet.Devices()) / f.rate * float64(time.Second))
	}
	live := &simulate.Live{W: cmd.ErrOrStderr(), Width: widthOf(cmd.ErrOrStderr())}
	watch := simulate.Watch{Show: live.Show}
	if pid := f.gatewayPID(); pid != 0 {
		watch.Sample = func() (simulate.Sample, bool) { return simulate.SampleOf(pid) }
	}
	out := &simulated{URL: f.url, Protocol: gateway.Protocol(f.protocol)}
	// Kept before anything is printed: whoever reads that may go away, and a certificate cannot be had again.
	play := func(p simulate.Phase, pace simulate.Pace) (*simulate.Report, error) {
		r := fleet.Run(ctx, p, client, pace, watch)
		if f.state != "" {
			if err := fleet.Save(f.state); err != nil {
				return r, fmt.Errorf("--state: %w", err)
			}
		}
		if !f.json {
			f.report(cmd.OutOrStdout(), r, p != phase && p == simulate.Enroll)
		}
		return r, nil
	}
	if phase == simulate.Enroll || phase == "" && fleet.Certified() < fleet.Devices() {
		pace := f.pace
		if phase == "" {
			pace.Within = 0
		}
		if out.Enroll, err = play(simulate.Enroll, pace); err != nil {
			return err
		}
	}
	if phase == simulate.Revoke {
		if out.Revoke, err = play(simulate.Revoke, f.pace); err != nil {
			return err
		}
	} else if phase != simulate.Enroll && fleet.Certified() > 0 && ctx.Err() == nil {
		if out.Renew, err = play(simulate.Renew, f.pace); err != nil {
			return err
		}
	}
	// What was to be renewed was enrolled, too: a device that the first phase left without a certificate has failed in the second.
	last := out.Renew
	if phase == simulate.Revoke {
		last = out.Revoke
	}
	if phase == simulate.Enroll || last == nil {
		last = out.Enroll
	}
	out.Good = last != nil && last.Good() && (phase != "" || out.Renew != nil)
	if f.json {
		if err := printJSON(cmd.OutOrStdout(), out); err != nil {
			return err
		}
	}
	if !out.Good {
		return exitCode(1)
	}
	return nil
}

// begin settles when devices begin, and how many there are: of number, rate and time two say the third.
func (f *simulateFlags) begin(given func(flag string) bool) error {
	if given("duration") {
		if given("within") {
			return errors.New("--duration and --within say the same: name one")
		}
		if f.duration <= 0 {
			return fmt.Errorf("--duration %s: want a time such as 30s", f.duration)
		}
		f.pace.Within = f.duration
	}
	if !given("rate") {
		return nil
	}
	if !(f.rate > 0 && f.rate <= simulate.MaxDevices) {
		return fmt.Errorf("--rate %v: want devices per second, such as 50", f.rate)
	}
	switch spread := f.pace.Within > 0; {
	case spread && given("devices"):
		return errors.New("--devices, --rate and the time that they take: two of them say the third")
	case spread && f.state != "":
		return errors.New("--state: the directory says how many devices there are, so --rate needs no time")
	case spread:
		n := f.rate * f.pace.Within.Seconds()
		if n > simulate.MaxDevices {
			return fmt.Errorf("--rate %v for %s: more than %d devices", f.rate, f.pace.Within, simulate.MaxDevices)
		}
		f.devices = max(int(math.Round(n)), 1)
	}
	return nil
}

// report prints a phase's; of one that only prepares another, the first line.
func (f *simulateFlags) report(w io.Writer, r *simulate.Report, prepares bool) {
	if prepares && r.Good() {
		fmt.Fprintf(w, "Enrolled %s at %s. Now they renew\n\n", words.Counted(r.Devices, "device"), words.Plain(f.url))
		return
	}
	fmt.Fprintf(w, "%s\n\n", words.Plain(f.url))
	r.Text(w)
}

func (f *simulateFlags) check() error {
	if !slices.Contains(simulatedProtocols, gateway.Protocol(f.protocol)) {
		return fmt.Errorf("--protocol %q: want est, cmp or scep", f.protocol)
	}
	if f.keys == "" {
		f.keys = simulate.P256
		if f.protocol == string(gateway.SCEP) {
			f.keys = simulate.RSA2048
		}
	}
	for _, d := range []struct {
		flag string
		is   time.Duration
		zero bool
	}{{"within", f.pace.Within, true}, {"retry", f.pace.Retry, false}, {"give-up", f.pace.GiveUp, false}, {"timeout", f.timeout, false}} {
		if d.is < 0 || d.is == 0 && !d.zero {
			return fmt.Errorf("--%s %s: want a time such as 30s", d.flag, d.is)
		}
	}
	if f.pace.Concurrency < 1 || f.pace.Concurrency > 10000 {
		return fmt.Errorf("--concurrency %d: want 1 to 10000", f.pace.Concurrency)
	}
	return nil
}

// fill takes from the data directory's quickstart.env what no flag says, when the gateway is the one of --data.
func (f *simulateFlags) fill(given func(flag string) bool) error {
	if f.url != "" {
		if given("data") || f.endpoint != "" {
			return errors.New("--url says where the gateway is: --data and --endpoint do not go with it")
		}
		return nil
	}
	f.here = true
	dir, err := filepath.Abs(f.data)
	if err != nil {
		return err
	}
	env, err := readEnvFile(quickstart{data: dir}.env())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: no gateway has run there as `muster serve` starts it: say where it is with --data DIR, or with --url, --ca, --user and --password-file", f.data)
	}
	if err != nil {
		return err
	}
	protocol := gateway.Protocol(f.protocol)
	base, paths := env["MUSTER_HTTP"], protocolPaths[protocol]
	if protocol == gateway.EST || base == "" {
		base = env["MUSTER_HTTPS"]
	}
	if base == "" {
		return fmt.Errorf("%s: that gateway has no listener for %s that is known: say where with --url", f.data, f.protocol)
	}
	f.url = base + paths[1]
	if f.endpoint != "" {
		f.url = base + paths[0] + f.endpoint
	}
	if f.ca == "" {
		f.ca = env["MUSTER_CA"]
	}
	if f.user != "" || f.passwordFile != "" {
		return nil
	}
	file := map[gateway.Protocol]string{gateway.EST: passwordFile, gateway.CMP: cmpSecretFile, gateway.SCEP: challengeFile}[protocol]
	f.passwordFile = filepath.Join(quickstart{data: dir}.secrets(), file)
	f.user = map[gateway.Protocol]string{gateway.EST: env["MUSTER_EST_USER"], gateway.CMP: env["MUSTER_CMP_REF"]}[protocol]
	return nil
}

var simulatedProtocols = []gateway.Protocol{gateway.EST, gateway.CMP, gateway.SCEP}

func (f *simulateFlags) client(ctx context.Context) (simulate.Client, error) {
	t := simulate.Target{URL: f.url, Timeout: f.timeout, Elsewhere: f.elsewhere, Keep: f.keep}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		if t.Roots = x509.NewCertPool(); !t.Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM", f.ca)
		}
	}
	password := ""
	if named := f.protocol != string(gateway.SCEP); named && (f.user == "") != (f.passwordFile == "") {
		return nil, errors.New("--user and --password-file go together")
	} else if !named && f.user != "" {
		return nil, errors.New("a SCEP challenge has no user: --password-file only")
	}
	if f.passwordFile != "" {
		file, err := os.Open(f.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		defer file.Close()
		line, tooLong, err := words.ReadLine(bufio.NewReader(file))
		if err != nil || tooLong || len(line) == 0 {
			return nil, fmt.Errorf("--password-file: %s holds no password on its first line", f.passwordFile)
		}
		password = string(line)
	}
	switch gateway.Protocol(f.protocol) {
	case gateway.CMP:
		return simulate.NewCMP(t, f.user, password)
	case gateway.SCEP:
		return simulate.NewSCEP(ctx, t, password)
	}
	return simulate.NewEST(t, f.user, password)
}

// fleet takes the devices from the state directory, or makes them.
func (f *simulateFlags) fleet(phase simulate.Phase, given func(flag string) bool) (*simulate.Fleet, error) {
	if f.state == "" && phase == simulate.Revoke {
		return nil, errors.New("--state DIR says whose certificates are revoked: `muster simulate enroll --protocol cmp --state DIR` enrols them")
	}
	if f.state == "" && phase == simulate.Renew {
		return nil, errors.New("--state DIR says which devices renew: `muster simulate enroll --state DIR` enrols them, or use `muster simulate storm`")
	}
	if f.state == "" {
		return simulate.NewFleet(f.devices, f.keys, f.subject)
	}
	fleet, err := simulate.Load(f.state)
	switch {
	case errors.Is(err, simulate.ErrNoState) && (phase == simulate.Enroll || phase == ""):
		return simulate.NewFleet(f.devices, f.keys, f.subject)
	case err != nil:
		return nil, fmt.Errorf("--state: %w", err)
	case given("devices") && f.devices != fleet.Devices(), given("keys") && f.keys != fleet.Keys():
		return nil, fmt.Errorf("--state: %s has %s with keys %s: use them, or name another directory", f.state, words.Counted(fleet.Devices(), "device"), fleet.Keys())
	}
	return fleet, nil
}

// gatewayPID is the process that is loaded, 0 when it is not known to be here.
func (f *simulateFlags) gatewayPID() int {
	if f.pid != 0 || !f.here {
		return f.pid
	}
	pid, err := simulate.ListenerOf(filepath.Join(f.data, adminSocket))
	if err != nil {
		return 0
	}
	return pid
}

// readEnvFile reads what envFile wrote.
func readEnvFile(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		inner, quoted := strings.CutPrefix(value, "'")
		inner, closed := strings.CutSuffix(inner, "'")
		if !ok || !quoted || !closed {
			return nil, fmt.Errorf("%s: a line that `muster serve` does not write", path)
		}
		env[name] = strings.ReplaceAll(inner, `'\''`, "'")
	}
	return env, nil
}
