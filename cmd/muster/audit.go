package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
)

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Verify and export the audit trail",
		Long: `The audit trail has a record of each decision and each change, chained by hashes and signed. These commands read the store themselves, not
through the gateway, which may run or not.`,
	}
	cmd.AddCommand(newAuditVerifyCommand(), newAuditExportCommand(), newAuditHeadCommand())
	return cmd
}

// storeFlags say which store is read: that of a configuration, or of a data directory.
type storeFlags struct{ config, data string }

func (f *storeFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "the gateway's configuration `FILE`, which says where the store is (default DIR/muster.yaml)")
	cmd.Flags().StringVar(&f.data, "data", "", "the gateway's data `DIR`, where its audit key lies (default: "+defaultData+", or with --config the file's folder)")
}

// find returns the data directory and the store.
func (f *storeFlags) find() (data, dsn string, err error) {
	data, err = (&serveOptions{config: f.config, data: f.data}).dataDir()
	if err != nil {
		return "", "", err
	}
	config := f.config
	if config == "" {
		config = quickstart{data}.config()
	}
	cfg, err := loadConfig(config)
	if f.config == "" && errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%s: there is no muster.yaml: give the gateway's configuration by --config, or its data directory by --data", data)
	}
	if err != nil {
		return "", "", err
	}
	return data, cfg.storeDSN(), nil
}

// read calls fn with the trail as it stands in the store.
func readTrail(ctx context.Context, dsn string, fn func(*store.Snapshot) error) error {
	t, err := store.OpenTrail(ctx, dsn)
	if err != nil {
		return err
	}
	return errors.Join(t.Read(ctx, fn), t.Close())
}

func newAuditHeadCommand() *cobra.Command {
	f := &storeFlags{}
	cmd := &cobra.Command{
		Use: "head", Short: "Print the last record of each stream, to be kept elsewhere", Args: noArgs,
		Long: `Prints STREAM:SEQ:HASH of the last record of each stream. Kept where nobody who can change the store can change it, it finds what was cut off or
rewritten since: muster audit verify --expect STREAM:SEQ:HASH`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, dsn, err := f.find()
			if err != nil {
				return err
			}
			return readTrail(cmd.Context(), dsn, func(s *store.Snapshot) error {
				all, err := s.Extents(cmd.Context())
				for _, e := range all {
					fmt.Fprintln(cmd.OutOrStdout(), e.Last)
				}
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}

// auditTrust reads what the data directory has: public keys, and how the gateway left its streams. missing says what it should have and has not.
func auditTrust(data string) (t audit.Trust, missing error, err error) {
	t.Keys, err = audit.ReadPublicKeys(filepath.Join(data, auditPublic))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil, nil // of another host
	}
	if err != nil {
		return t, nil, err
	}
	path := filepath.Join(data, auditHead)
	if t.Left, err = audit.ReadHeads(path); err != nil {
		return t, fmt.Errorf("%w: nobody can tell whether records were cut off", err), nil
	}
	return t, nil, nil
}
