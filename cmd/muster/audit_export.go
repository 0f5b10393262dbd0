package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// auditExportFlags say which records are exported, and where to.
type auditExportFlags struct {
	storeFlags
	since, until, stream, out string
	filter                    audit.Filter
}

func newAuditExportCommand() *cobra.Command {
	f := &auditExportFlags{}
	cmd := &cobra.Command{
		Use: "export", Short: "Write the audit trail as JSON lines", Args: noArgs,
		Long: `Writes one line of JSON for each record, after a first one that says what the export holds. "muster audit verify FILE" verifies it, as long as no
record was left out by --since, --until, --device, --transaction or --kind, and no other program has written its JSON anew.`,
		Example: "  muster audit export --out trail.jsonl\n  muster audit export --since 7d --kind refused --kind denied | jq .body",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.times(time.Now()); err != nil {
				return err
			}
			_, dsn, err := f.find()
			if err != nil {
				return err
			}
			return f.run(cmd, dsn)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.since, "since", "", "only records from this `TIME` on: 2026-07-01, 2026-07-01T12:00:00Z, or 7d for the last seven days")
	cmd.Flags().StringVar(&f.until, "until", "", "only records before this `TIME`")
	cmd.Flags().StringVar(&f.stream, "stream", "", "only this `STREAM`")
	cmd.Flags().StringVar(&f.filter.Device, "device", "", "only this `DEVICE`'s")
	cmd.Flags().StringVar(&f.filter.Transaction, "transaction", "", "only of this transaction (`ID`)")
	cmd.Flags().StringArrayVar(&f.filter.Kinds, "kind", nil, "only records of this `KIND`: issued, refused, ... (repeatable)")
	cmd.Flags().StringVar(&f.out, "out", "", "write to this `FILE` (0600), which must not exist, not to standard output")
	return cmd
}

func (f *auditExportFlags) times(now time.Time) (err error) {
	for _, t := range []struct {
		name, given string
		into        *time.Time
	}{{"since", f.since, &f.filter.Since}, {"until", f.until, &f.filter.Until}} {
		if t.given == "" {
			continue
		}
		if *t.into, err = pointInTime(t.given, now); err != nil {
			return fmt.Errorf("--%s %s: %w", t.name, words.Quote(t.given), err)
		}
	}
	return nil
}

// pointInTime reads a date, a time, or how long ago.
func pointInTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if ago, err := strictyaml.ParseDuration(s); err == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	return time.Time{}, errors.New("want a date (2026-07-01, UTC), a time (2026-07-01T12:00:00Z), or how long ago (7d)")
}

func (f *auditExportFlags) run(cmd *cobra.Command, dsn string) (err error) {
	out := cmd.OutOrStdout()
	if f.out != "" {
		file, err := os.OpenFile(f.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.write(cmd.Context(), dsn, file, cmd.ErrOrStderr()), file.Sync(), file.Close()); err != nil {
			return errors.Join(err, os.Remove(f.out))
		}
		return nil
	}
	return f.write(cmd.Context(), dsn, out, cmd.ErrOrStderr())
}

func (f *auditExportFlags) write(ctx context.Context, dsn string, out, stderr io.Writer) error {
	return readTrail(ctx, dsn, func(s *store.Snapshot) error {
		extents, err := s.Extents(ctx)
		if err != nil {
			return err
		}
		e := &audit.Export{Version: 1, At: time.Now().UTC().Truncate(time.Second), Filter: f.filter.String(), Streams: []string{}}
		var total []store.Extent
		var names []string
		for _, x := range extents {
			names = append(names, x.Last.Stream)
			if f.stream == "" || f.stream == x.Last.Stream {
				e.Streams, total = append(e.Streams, x.Last.String()), append(total, x)
			}
		}
		if f.stream != "" && len(total) == 0 {
			return fmt.Errorf("--stream: there is no stream %s%s", words.Quote(f.stream), strictyaml.Suggest(f.stream, names))
		}
		w := bufio.NewWriterSize(out, 64<<10)
		line, err := audit.AppendExport(nil, e)
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
		p := &progress{w: stderr, what: "records", width: widthOf(stderr), now: time.Now}
		defer p.end()
		n := 0
		err = s.Records(ctx, f.stream, func(r audit.Record) error {
			if n++; n%1000 == 0 && f.out != "" {
				p.show(n, recordCount(total))
			}
			if !f.filter.Takes(r.Body) {
				return nil
			}
			line = audit.AppendLine(line[:0], r)
			_, err := w.Write(line)
			return err
		})
		if err != nil {
			return err
		}
		return w.Flush()
	})
}
