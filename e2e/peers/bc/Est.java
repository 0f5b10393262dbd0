import java.io.IOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.KeyPair;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import javax.net.ssl.KeyManagerFactory;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.est.CACertsResponse;
import org.bouncycastle.est.CSRAttributesResponse;
import org.bouncycastle.est.CSRRequestResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTException;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.ChannelBindingProvider;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.jsse.BCSSLSocket;
import org.bouncycastle.jsse.provider.BouncyCastleJsseProvider;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;

/**
 * BouncyCastle's own EST client, over its own TLS: the JDK's tells nobody the tls-unique of a connection. It prints what it saw,
 * a line each. A refusal is no failure here.
 */
public final class Est {
    private final Options o;
    private final List<X509CertificateHolder> roots;
    private final ESTService service;
    private int waited;

    private Est(Options o) throws Exception {
        this.o = o;
        roots = Files.certificates(o.need("root"));
        JcaX509CertificateConverter converter = new JcaX509CertificateConverter().setProvider("BC");
        Set<TrustAnchor> anchors = new HashSet<>();
        for (X509CertificateHolder r : roots) {
            anchors.add(new TrustAnchor(converter.getCertificate(r), null));
        }
        JsseESTServiceBuilder b = new JsseESTServiceBuilder(o.need("server"), JcaJceUtils.getCertPathTrustManager(anchors, null));
        b.withProvider("BCJSSE").withTLSVersion(o.get("tls", "TLSv1.2")).withTimeout(30000).withChannelBindingProvider(new Binding(o.get("pop", "")));
        if (o.has("label")) {
            b.withLabel(o.get("label"));
        }
        if (o.has("cert")) {
            List<X509Certificate> chain = new ArrayList<>();
            for (X509CertificateHolder c : Files.certificates(o.get("cert"))) {
                chain.add(converter.getCertificate(c));
            }
            KeyStore store = KeyStore.getInstance("PKCS12", "BC");
            store.load(null, null);
            store.setKeyEntry("device", Files.key(o.need("key")), new char[0], chain.toArray(new X509Certificate[0]));
            KeyManagerFactory f = KeyManagerFactory.getInstance("PKIX", "BCJSSE");
            f.init(store, new char[0]);
            b.withKeyManagers(f.getKeyManagers());
        }
        service = b.build();
    }

    /** The value of the connection, or another. */
    private static final class Binding implements ChannelBindingProvider {
        private final boolean wrong;

        Binding(String pop) {
            wrong = pop.equals("wrong");
        }

        @Override
        public boolean canAccessChannelBinding(Socket socket) {
            return socket instanceof BCSSLSocket;
        }

        @Override
        public byte[] getChannelBinding(Socket socket, String binding) {
            byte[] value = ((BCSSLSocket) socket).getConnection().getChannelBinding(binding);
            if (wrong) {
                value[0] ^= 1;
            }
            return value;
        }
    }

    public static void main(String[] args) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        Security.addProvider(new BouncyCastleJsseProvider(new BouncyCastleProvider()));
        Est e = new Est(new Options(args, 1));
        try {
            e.run(args[0]);
        } catch (ESTException refused) {
            Say.it("status", refused.getStatusCode());
            Say.it("refused", told(refused));
        }
        Say.it("end", "ok");
    }

    private static String told(ESTException e) throws IOException {
        return e.getBody() == null ? e.toString() : new String(e.getBody().readAllBytes(), StandardCharsets.UTF_8).trim();
    }

    private void run(String command) throws Exception {
        switch (command) {
            case "cacerts":
                CACertsResponse certs = service.getCACerts();
                Say.must(certs.isTrusted(), "not trusted");
                for (X509CertificateHolder c : ESTService.storeToArray(certs.getCertificateStore())) {
                    Files.chain(c, List.of(ESTService.storeToArray(certs.getCertificateStore())), roots);
                    Say.it("ca", c.getSubject());
                }
                break;
            case "csrattrs":
                CSRRequestResponse asked = service.getCSRAttributes();
                Say.it("asks", asked.hasAttributesResponse());
                if (asked.hasAttributesResponse()) {
                    CSRAttributesResponse attributes = asked.getAttributesResponse();
                    for (ASN1ObjectIdentifier oid : attributes.getRequirements()) {
                        Say.it("attribute", oid);
                    }
                }
                break;
            case "enroll":
            case "reenroll":
                enroll(command.equals("reenroll"));
                break;
            default:
                throw new IllegalArgumentException(command);
        }
    }

    private void enroll(boolean again) throws Exception {
        KeyPair pair = Keys.generate("P-256");
        PKCS10CertificationRequestBuilder b = new JcaPKCS10CertificationRequestBuilder(new X500Name(o.need("subject")), pair.getPublic());
        ContentSigner signer = new JcaContentSignerBuilder("SHA256withECDSA").setProvider("BC").build(pair.getPrivate());
        ESTAuth auth = o.has("user") ? new JcaHttpAuthBuilder(o.get("realm"), o.get("user"), o.need("password").toCharArray()).setProvider("BC").build() : null;
        boolean keygen = o.has("keygen");
        EnrollmentResponse r;
        if (o.has("pop")) {
            r = keygen ? service.simpleEnrollPopWithServersideCreation(b, signer, auth) : service.simpleEnrollPoP(again, b, signer, auth);
        } else if (keygen) {
            r = service.simpleEnrollWithServersideCreation(b.build(signer), auth);
        } else {
            r = service.simpleEnroll(again, b.build(signer), auth);
        }
        // Held: -polls says how often to ask again with what BouncyCastle keeps for that.
        for (int left = Integer.parseInt(o.get("polls", "0")); !r.isCompleted() && left > 0; left--) {
            Say.it("held", r.getNotBefore() - System.currentTimeMillis() > 0 ? "until later" : "no longer");
            System.in.read(); // whoever started this says when to ask again
            r = service.simpleEnroll(r);
        }
        Say.it("completed", r.isCompleted());
        if (!r.isCompleted()) {
            Say.must(r.getNotBefore() > System.currentTimeMillis(), "Retry-After is over already");
            return;
        }
        X509CertificateHolder[] certs = ESTService.storeToArray(r.getStore());
        Say.must(certs.length == 1, certs.length + " certificates");
        PrivateKey key = pair.getPrivate();
        if (keygen) {
            Say.must(r.getPrivateKeyInfo() != null, "no private key");
            key = new org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter().setProvider("BC").getPrivateKey(r.getPrivateKeyInfo());
        }
        X509Certificate cert = new JcaX509CertificateConverter().setProvider("BC").getCertificate(certs[0]);
        Say.must(Keys.match(key, cert.getPublicKey()), "the certificate has another key");
        Files.chain(certs[0], List.of(ESTService.storeToArray(service.getCACerts().getCertificateStore())), roots);
        Say.it("subject", certs[0].getSubject());
        if (o.has("certout")) {
            Files.write(o.get("certout"), certs[0]);
            Files.write(o.need("keyout"), key);
        }
    }
}
