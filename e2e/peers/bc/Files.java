import java.io.FileReader;
import java.io.FileWriter;
import java.security.PrivateKey;
import java.security.cert.CertPathBuilder;
import java.security.cert.CertStore;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.PKIXBuilderParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509CertSelector;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.openssl.PEMKeyPair;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.openssl.jcajce.JcaPKCS8Generator;

/** PEM files, and what is trusted by them. */
final class Files {
    static List<X509CertificateHolder> certificates(String file) throws Exception {
        List<X509CertificateHolder> list = new ArrayList<>();
        try (PEMParser in = new PEMParser(new FileReader(file))) {
            for (Object o = in.readObject(); o != null; o = in.readObject()) {
                list.add((X509CertificateHolder) o);
            }
        }
        Say.must(list.size() > 0, file + " has no certificate");
        return list;
    }

    static PrivateKey key(String file) throws Exception {
        try (PEMParser in = new PEMParser(new FileReader(file))) {
            Object o = in.readObject();
            JcaPEMKeyConverter c = new JcaPEMKeyConverter().setProvider("BC");
            return o instanceof PEMKeyPair ? c.getPrivateKey(((PEMKeyPair) o).getPrivateKeyInfo()) : c.getPrivateKey((PrivateKeyInfo) o);
        }
    }

    static void write(String file, X509CertificateHolder certificate) throws Exception {
        try (JcaPEMWriter out = new JcaPEMWriter(new FileWriter(file))) {
            out.writeObject(certificate);
        }
    }

    static void write(String file, PrivateKey key) throws Exception {
        try (JcaPEMWriter out = new JcaPEMWriter(new FileWriter(file))) {
            out.writeObject(new JcaPKCS8Generator(key, null)); // PKCS#8, not encrypted
        }
    }

    /** A path from the certificate to a root, as RFC 5280 has it; the program ends when there is none. */
    static void chain(X509CertificateHolder target, Collection<X509CertificateHolder> others, List<X509CertificateHolder> roots) throws Exception {
        JcaX509CertificateConverter c = new JcaX509CertificateConverter().setProvider("BC");
        Set<TrustAnchor> anchors = new HashSet<>();
        for (X509CertificateHolder r : roots) {
            anchors.add(new TrustAnchor(c.getCertificate(r), null));
        }
        List<X509Certificate> known = new ArrayList<>();
        for (X509CertificateHolder o : others) {
            known.add(c.getCertificate(o));
        }
        known.add(c.getCertificate(target));
        X509CertSelector selector = new X509CertSelector();
        selector.setCertificate(c.getCertificate(target));
        PKIXBuilderParameters p = new PKIXBuilderParameters(anchors, selector);
        p.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(known), "BC"));
        p.setRevocationEnabled(false);
        CertPathBuilder.getInstance("PKIX", "BC").build(p);
    }
}
