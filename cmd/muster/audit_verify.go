package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
)

// auditVerifyFlags say against what a trail is verified.
type auditVerifyFlags struct {
	storeFlags
	keys, expect, restored, unsigned []string
	partial, json                    bool
}

func newAuditVerifyCommand() *cobra.Command {
	f := &auditVerifyFlags{}
	cmd := &cobra.Command{
		Use: "verify [FILE...]", Short: "Say whether anybody has changed the audit trail, and where",
		Long: `Reads the audit trail in the store, or in exported files, and finds what was changed, removed, inserted, put in another order or cut off. It is
good when every stream is whole, and signed by a key that the data directory (` + auditPublic + `) or --key vouches for. The exit code is 0 then, else 1.

docs/audit.md says what each way to tamper with it shows by.`,
		Example: "  muster audit verify\n  muster audit verify --config muster.yaml --key replica-b.pub\n  muster audit verify --key audit.pub --expect host1:5021:3f6c... trail.jsonl",
		RunE: func(cmd *cobra.Command, files []string) error {
			r, err := f.verify(cmd, files)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if f.json {
				err = printJSON(w, r)
			} else {
				err = r.print(w, widthOf(w))
			}
			if err == nil && !r.Verified {
				return exitCode(1)
			}
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "PEM `FILE` with public keys that are vouched for: "+auditPublic+" of another instance, or a copy of it (repeatable)")
	cmd.Flags().StringArrayVar(&f.expect, "expect", nil, "`STREAM:SEQ:HASH` of a record that has to be there, as \"muster audit head\" printed it (repeatable)")
	cmd.Flags().StringArrayVar(&f.restored, "restored", nil, "`STREAM:SEQ` of a record \"audit-broken\" that is explained: a backup was restored (repeatable)")
	cmd.Flags().StringArrayVar(&f.unsigned, "unsigned", nil, "`STREAM` that is good without a signature: of an instance that was gone before trails were signed (repeatable)")
	cmd.Flags().BoolVar(&f.partial, "partial", false, "the files hold a part of the trail: streams begin anywhere, and a record may come twice")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// auditReport is what `muster audit verify --json` prints.
type auditReport struct {
	Verified bool            `json:"verified"`
	Faults   []audit.Fault   `json:"faults"` // of all streams
	Streams  []*audit.Stream `json:"streams"`

	unsigned []string
	missing  error
}

func (f *auditVerifyFlags) verify(cmd *cobra.Command, files []string) (*auditReport, error) {
	for i, name := range []string{"config", "data"} {
		if cmd.Flags().Changed(name) && []string{f.config, f.data}[i] == "" {
			return nil, fmt.Errorf("--%s is given, and empty: say what, or leave it out", name)
		}
	}
	if f.partial && len(files) == 0 {
		return nil, fmt.Errorf("--partial is for files: the store has the whole trail")
	}
	var t audit.Trust
	var dsn string
	var missing error
	if here := len(files) == 0; here || f.config != "" || f.data != "" {
		data, of, err := f.find()
		if err != nil {
			return nil, err
		}
		if t, missing, err = auditTrust(data); err != nil {
			return nil, err
		}
		if !here { // a copy from before is none that was cut off
			t.Left, missing = nil, nil
		}
		dsn = of
	}
	if err := f.complete(&t); err != nil {
		return nil, err
	}
	var v *audit.Verifier
	var err error
	if len(files) > 0 {
		v, err = verifyFiles(t, files)
	} else {
		v, err = verifyStore(cmd.Context(), t, dsn, cmd.ErrOrStderr())
	}
	if err != nil {
		return nil, err
	}
	return f.judge(v.Report(), missing), nil
}

// complete adds what flags say.
func (f *auditVerifyFlags) complete(t *audit.Trust) error {
	t.Partial = f.partial
	for _, file := range f.keys {
		keys, err := audit.ReadPublicKeys(file)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		t.Keys = append(t.Keys, keys...)
	}
	for _, given := range f.expect {
		h, err := audit.ParseHead(given)
		if err != nil {
			return fmt.Errorf("--expect: %w", err)
		}
		t.Expect = append(t.Expect, h)
	}
	for _, given := range f.restored {
		i := strings.LastIndexByte(given, ':')
		seq, err := strconv.ParseInt(given[i+1:], 10, 64)
		if i < 1 || err != nil {
			return fmt.Errorf("--restored: %s is no STREAM:SEQ", words.Quote(given))
		}
		t.Restored = append(t.Restored, audit.Place{Stream: given[:i], Seq: seq})
	}
	return nil
}

func verifyStore(ctx context.Context, t audit.Trust, dsn string, stderr io.Writer) (*audit.Verifier, error) {
	v := audit.NewVerifier(t)
	err := readTrail(ctx, dsn, func(s *store.Snapshot) error {
		total, err := s.Extents(ctx)
		if err != nil {
			return err
		}
		p := &progress{w: stderr, what: "records", width: widthOf(stderr), now: time.Now}
		defer p.end()
		n := 0
		return s.Records(ctx, "", func(r audit.Record) error {
			v.Add(r)
			if n++; n%1000 == 0 {
				p.show(n, recordCount(total))
			}
			return nil
		})
	})
	return v, err
}

// recordCount is how many there are, if none is missing.
func recordCount(all []store.Extent) (n int) {
	for _, e := range all {
		n += int(e.Last.Seq - e.First + 1)
	}
	return n
}

func verifyFiles(t audit.Trust, files []string) (*audit.Verifier, error) {
	var all []*os.File
	defer func() {
		for _, f := range all {
			f.Close()
		}
	}()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	var v *audit.Verifier
	begin := func() {
		if v == nil {
			v = audit.NewVerifier(t)
		}
	}
	for i, f := range all {
		err := audit.ReadLines(f, files[i], func(e *audit.Export) error {
			if e.Filter != "" {
				return fmt.Errorf("this export leaves records out (%s), so that nobody can tell whether others are missing: export without --since, --until, --device, --transaction and --kind", e.Filter)
			}
			if v != nil {
				return fmt.Errorf("an export is verified by itself, as the first file")
			}
			for _, given := range e.Streams {
				h, err := audit.ParseHead(given)
				if err != nil {
					return err
				}
				t.Expect = append(t.Expect, h)
			}
			return nil
		}, func(r audit.Record) error {
			begin()
			v.Add(r)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	begin()
	return v, nil
}

// judge says whether all of it is verified.
func (f *auditVerifyFlags) judge(found *audit.Report, missing error) *auditReport {
	r := &auditReport{Faults: append([]audit.Fault{}, found.Faults()...), Streams: found.Streams, unsigned: f.unsigned, missing: missing}
	if missing != nil {
		r.Faults = append(r.Faults, audit.Fault{What: missing.Error()})
	}
	r.Verified = len(r.Faults) == 0 && len(r.Streams) > 0
	for _, s := range r.Streams {
		r.Verified = r.Verified && (s.Standing == audit.Verified || s.Standing == audit.Unsigned && slices.Contains(f.unsigned, s.Stream))
	}
	return r
}

// shownKey is how much of a key's ID a person needs to tell keys apart.
const shownKey = 16

func (r *auditReport) print(w io.Writer, width int) error {
	t := &table{columns: []column{
		{title: "STREAM", rest: 8, most: 40}, {title: "RECORDS"}, {title: "FROM (UTC)"}, {title: "TO (UTC)", from: 80}, {title: "SIGNED THROUGH"}, {title: "BY KEY", from: 110}, {title: "STANDING"},
	}}
	total := int64(0)
	for _, s := range r.Streams {
		total += s.Records
		signed, keys := "-", []string{}
		if s.Signed > 0 {
			signed = strconv.FormatInt(s.Signed, 10)
		}
		for _, k := range s.Signers {
			keys = append(keys, words.Cut(k.Key, shownKey))
		}
		t.row(s.Stream, fmt.Sprintf("%d to %d", s.First, s.Last), minute(s.From), minute(s.To), signed, strings.Join(keys, " "), string(s.Standing))
	}
	if err := t.print(w, width, "no records", false); err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range r.Faults {
		b.WriteString("\n" + words.Plain(shown(&f)) + "\n")
	}
	for _, s := range r.Streams {
		if s.More > 0 {
			fmt.Fprintf(&b, "\nstream %s: and %d faults more\n", words.Quote(s.Stream), s.More)
		}
		b.WriteString(r.hint(s))
	}
	if r.Verified {
		fmt.Fprintf(&b, "\nverified: %d records\n", total)
	} else {
		b.WriteString("\nNOT VERIFIED\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shown is a fault on one line.
func shown(f *audit.Fault) string {
	var at []string
	if f.Stream != "" {
		at = append(at, "stream "+f.Stream)
	}
	if f.Seq > 0 {
		at = append(at, fmt.Sprintf("record %d", f.Seq))
	}
	if f.Transaction != "" {
		at = append(at, "transaction "+f.Transaction)
	}
	if len(at) == 0 {
		return f.What
	}
	return strings.Join(at, ", ") + ": " + f.What
}

// hint says what a stream lacks to be verified.
func (r *auditReport) hint(s *audit.Stream) string {
	switch s.Standing {
	case audit.Unvouched:
		if s.Note != "" && s.Signed > 0 {
			return fmt.Sprintf("\nstream %s: %s\n", words.Quote(s.Stream), words.Plain(s.Note))
		}
		var keys []string
		for _, k := range s.Signers {
			keys = append(keys, k.Key)
		}
		return fmt.Sprintf("\nstream %s: its chain is whole, but nobody vouches for the key that signed it (%s).\nTake %s from the data directory of that instance, by a way that you trust, and give it by --key\n",
			words.Quote(s.Stream), strings.Join(keys, ", "), auditPublic)
	case audit.Unsigned:
		if slices.Contains(r.unsigned, s.Stream) {
			return ""
		}
		return fmt.Sprintf("\nstream %s: its chain is whole, but nothing signs it, so that anybody who can write to the store could have made it.\nAn instance that was gone before trails were signed leaves such a stream: --unsigned %s\n",
			words.Quote(s.Stream), words.Plain(s.Stream))
	}
	return ""
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}
